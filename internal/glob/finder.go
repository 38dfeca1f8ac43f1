package glob

import "slices"

// finder finds the edges of a node that match a name.
//
// Every wildcard component is filed under a hash of (the first P bytes, the last
// S bytes), P and S being the lengths of its literal ends. There are few
// different pairs of lengths, called shapes, so a name is hashed once from both
// ends and looked up once per shape. Collisions do no harm: the matcher of the
// edge has the last word.
type finder struct {
	lits  map[string]*node
	edges []edge // by the index of the child, so the first match is the lowest

	// What every name has that matches anything here.
	first, last byteSet
	litLens     [4]uint64 // lengths of the literals, as a set of up to 255
	litLong     bool      // and some are longer
	globMin     int       // the shortest name that a wildcard component matches

	pre, suf []int // the lengths that occur, ascending
	shapes   []shape
	table    []slot // open addressing; a power of two, or empty
	buckets  []int32
}

type shape struct{ pre, suf uint8 } // positions in finder.pre and finder.suf

// slot says which part of finder.buckets has the edges of a key.
type slot struct {
	key      uint64
	from, to int32
}

// maxLengths bounds how many different lengths are hashed on either side.
const maxLengths = 16

func newFinder(lits map[string]*node, globs []edge) *finder {
	f := &finder{lits: lits, edges: slices.Clone(globs), globMin: none}
	slices.SortStableFunc(f.edges, func(a, b edge) int { return cmpInt(a.child.index, b.child.index) })
	for name := range lits {
		f.litLens[len(name)>>6&3] |= 1 << (len(name) & 63)
		f.litLong = f.litLong || len(name) > 255
	}
	for _, e := range f.edges {
		f.globMin = min(f.globMin, e.m.minLen)
		addEnd(&f.first, e.m.prefix, 0)
		addEnd(&f.last, e.m.suffix, len(e.m.suffix)-1)
	}
	f.pre = lengths(f.edges, func(m *matcher) int { return len(m.prefix) })
	f.suf = lengths(f.edges, func(m *matcher) int { return len(m.suffix) })
	f.fill()
	return f
}

func cmpInt(a, b int) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// addEnd adds the byte at i of s to set, or all bytes if s is empty.
func addEnd(set *byteSet, s string, i int) {
	if s == "" {
		*set = byteSet{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}
		return
	}
	set.add(s[i])
}

// lengths returns the different lengths of one end, ascending. If they are too
// many, they are rounded down to powers of two: a shorter key is still right,
// only less sharp.
func lengths(edges []edge, of func(*matcher) int) []int {
	var out []int
	for _, e := range edges {
		out = append(out, of(e.m))
	}
	slices.Sort(out)
	out = slices.Compact(out)
	if len(out) <= maxLengths {
		return out
	}
	longest := out[len(out)-1]
	out = append(out[:0], 0)
	for n := 1; n <= longest && len(out) < maxLengths; n *= 2 {
		out = append(out, n)
	}
	return out
}

// fit returns the position of the largest of lengths that is at most n.
func fit(lengths []int, n int) uint8 {
	i, ok := slices.BinarySearch(lengths, n)
	if !ok {
		i--
	}
	return uint8(i)
}

// fill builds the shapes and the table.
func (f *finder) fill() {
	if len(f.edges) == 0 {
		return
	}
	byKey := make(map[uint64][]int32)
	seen := make(map[shape]bool)
	for i, e := range f.edges {
		sh := shape{fit(f.pre, len(e.m.prefix)), fit(f.suf, len(e.m.suffix))}
		if !seen[sh] {
			seen[sh] = true
			f.shapes = append(f.shapes, sh)
		}
		p, s := e.m.prefix[:f.pre[sh.pre]], e.m.suffix
		s = s[len(s)-f.suf[sh.suf]:]
		k := key(forward(seed, p), backward(seed, s), sh)
		byKey[k] = append(byKey[k], int32(i))
	}
	size := 2
	for size < 2*len(byKey) {
		size *= 2
	}
	f.table = make([]slot, size)
	for k, list := range byKey {
		i := k & uint64(size-1)
		for f.table[i].to != 0 {
			i = (i + 1) & uint64(size-1)
		}
		from := int32(len(f.buckets))
		f.buckets = append(f.buckets, list...)
		f.table[i] = slot{k, from, int32(len(f.buckets))}
	}
}

// The hash is a multiplication per byte (as in FNV-1a, with a mixing step at the
// end). Nobody gains by collisions: whoever writes the patterns owns the run.
const (
	seed  uint64 = 0xcbf29ce484222325
	prime uint64 = 0x9e3779b97f4a7c15
)

func forward(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * prime
	}
	return h
}

func backward(h uint64, s string) uint64 {
	for i := len(s) - 1; i >= 0; i-- {
		h = (h ^ uint64(s[i])) * prime
	}
	return h
}

func key(pre, suf uint64, sh shape) uint64 {
	h := pre ^ (suf<<31 | suf>>33) ^ uint64(sh.pre)<<8 ^ uint64(sh.suf)
	h ^= h >> 32
	h *= prime
	return h ^ h>>29
}

// literal returns the child of a component without wildcards.
func (f *finder) literal(name string) *node {
	if len(f.lits) == 0 {
		return nil
	}
	if n := len(name); n <= 255 && f.litLens[n>>6]&(1<<(n&63)) == 0 || n > 255 && !f.litLong {
		return nil
	}
	return f.lits[name]
}

// possible reports whether a wildcard component may match name.
func (f *finder) possible(name string) bool {
	n := len(name)
	if n < f.globMin || len(f.edges) == 0 {
		return false
	}
	return n == 0 || f.first.has(name[0]) && f.last.has(name[n-1])
}

// hashes fills the hashes of the ends of name for the lengths that occur and
// fit.
func (f *finder) hashes(name string, pre, suf *[maxLengths]uint64) {
	h, at := seed, 0
	for i, n := range f.pre {
		if n > len(name) {
			break
		}
		h, at = forward(h, name[at:n]), n
		pre[i&(maxLengths-1)] = h
	}
	h, at = seed, len(name)
	for i, n := range f.suf {
		if n > len(name) {
			break
		}
		h, at = backward(h, name[len(name)-n:at]), len(name)-n
		suf[i&(maxLengths-1)] = h
	}
}

// bucket returns the edges filed under k, which are few.
func (f *finder) bucket(k uint64) []int32 {
	mask := uint64(len(f.table) - 1)
	for i := k & mask; ; i = (i + 1) & mask {
		s := &f.table[i]
		if s.to == 0 {
			return nil
		}
		if s.key == k {
			return f.buckets[s.from:s.to]
		}
	}
}

// lowest returns the lowest index of a pattern that ends with name, if that is
// below best; else best.
func (f *finder) lowest(name string, best int) int {
	if n := f.literal(name); n != nil {
		best = min(best, n.index)
	}
	if !f.possible(name) {
		return best
	}
	var pre, suf [maxLengths]uint64
	f.hashes(name, &pre, &suf)
	for _, sh := range f.shapes {
		if f.pre[sh.pre]+f.suf[sh.suf] > len(name) {
			continue
		}
		for _, i := range f.bucket(key(pre[sh.pre&(maxLengths-1)], suf[sh.suf&(maxLengths-1)], sh)) {
			e := &f.edges[i]
			if e.child.index >= best {
				break
			}
			if e.m.match(name) {
				best = e.child.index
				break
			}
		}
	}
	return best
}

// below adds to c the nodes that name leads to.
func (f *finder) below(name string, c *Cursor) {
	if n := f.literal(name); n != nil {
		c.add(n)
	}
	if !f.possible(name) {
		return
	}
	var pre, suf [maxLengths]uint64
	f.hashes(name, &pre, &suf)
	for _, sh := range f.shapes {
		if f.pre[sh.pre]+f.suf[sh.suf] > len(name) {
			continue
		}
		for _, i := range f.bucket(key(pre[sh.pre&(maxLengths-1)], suf[sh.suf&(maxLengths-1)], sh)) {
			if e := &f.edges[i]; !e.child.leaf() && e.m.match(name) {
				c.add(e.child)
			}
		}
	}
}
