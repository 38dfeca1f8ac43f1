package fsat

import (
	"errors"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// CopySparse is CopyFile for files of any length: holes stay holes, and goOn is
// asked between pieces whether to go on; its error ends the copy, and no file is
// made. st is what src says of itself now.
func (d *Dir) CopySparse(name string, src *Node, st *Stat, a Attr, goOn func() error) error {
	return d.makeFile(name, a, func(n *Node) error {
		c := sparse{in: src.fd, out: n.fd, goOn: goOn}
		if err := c.copy(st.Size); err != nil {
			return err
		}
		copyUserXattrs(src.fd, n.fd)
		return linux.Futimens(n.fd, st.Atime, st.Mtime)
	})
}

// sparse copies the data between the holes.
type sparse struct {
	in, out int
	goOn    func() error
	byHand  bool
	buf     []byte
}

// piece is how much is copied before it is asked whether to go on.
const piece = 4 << 20

func (c *sparse) copy(size int64) error {
	for off := int64(0); off < size; {
		from, to, err := c.data(off, size)
		if err != nil {
			return err
		}
		if from >= size {
			break
		}
		if err := errors.Join(linux.SeekTo(c.in, from), linux.SeekTo(c.out, from)); err != nil {
			return err
		}
		if err := c.part(to - from); err != nil {
			return err
		}
		off = to
	}
	return linux.Ftruncate(c.out, size)
}

// data is where the next data begins and ends. A file system that cannot tell has
// no holes.
func (c *sparse) data(off, size int64) (from, to int64, err error) {
	from, err = linux.SeekData(c.in, off)
	switch {
	case errors.Is(err, syscall.ENXIO):
		return size, size, nil
	case err != nil:
		return off, size, nil
	}
	if to, err = linux.SeekHole(c.in, from); err != nil || to <= from {
		return from, size, nil
	}
	return from, min(to, size), nil
}

// part copies n bytes, or as many as there are.
func (c *sparse) part(n int64) error {
	for n > 0 {
		if c.goOn != nil {
			if err := c.goOn(); err != nil {
				return err
			}
		}
		got, err := c.some(int(min(n, piece)))
		if err != nil || got == 0 {
			return err
		}
		n -= int64(got)
	}
	return nil
}

func (c *sparse) some(n int) (int, error) {
	if !c.byHand {
		got, err := linux.CopyFileRange(c.in, c.out, n)
		if err == nil && got > 0 {
			return got, nil
		}
		if err != nil && !copyRangeUnfit(err) {
			return 0, err
		}
		c.byHand = true
	}
	if c.buf == nil {
		c.buf = make([]byte, 256<<10)
	}
	got, err := linux.Read(c.in, c.buf[:min(n, len(c.buf))])
	if err != nil || got == 0 {
		return 0, err
	}
	return got, linux.WriteAll(c.out, c.buf[:got])
}
