package tmpfiles

import "strings"

// Making lists the lines that make what is at p: those for that very path, in the
// order in which they are applied, else the C line that copies a tree to where p is
// in it. Lines that only change what is there are not among them. It takes the same
// time however many lines there are.
func (c *Config) Making(p string) []*Item {
	var list []*Item
	if g := c.plain.byPath[p]; g != nil {
		for _, it := range g.items {
			if strings.IndexByte(plainTypes, byte(it.Type)) >= 0 {
				list = append(list, it)
			}
		}
	}
	for up := p; len(list) == 0; {
		end := strings.LastIndexByte(up, '/')
		if end <= 0 {
			break // no tree is copied to "/"
		}
		up = up[:end]
		if g := c.plain.byPath[up]; g != nil {
			for _, it := range g.items {
				if it.Type == 'C' {
					list = append(list, it)
				}
			}
		}
	}
	return list
}
