package filecaps

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// Xattr is the name under which the kernel stores a file's capabilities.
const Xattr = "security.capability"

// Set is a set of capabilities, bit N for the capability number N.
type Set uint64

// LastCap is the last capability that this package has a name for,
// CAP_CHECKPOINT_RESTORE. /proc/sys/kernel/cap_last_cap says which is the
// kernel's.
const LastCap = 40

// MaxCap is the largest number that Parse takes.
const MaxCap = 62

// UpTo is the set of the capabilities 0 to last: what "all" means on a kernel
// whose last capability that is.
func UpTo(last int) Set {
	if last < 0 {
		return 0
	}
	return Set(1)<<min(last+1, MaxCap+1) - 1
}

// Caps are the capabilities of a file. The zero value is that of a file without
// any. Comparable.
type Caps struct {
	Permitted   Set
	Inheritable Set
	Effective   Set
	// RootUID is the uid, in the initial user namespace, of the root user of
	// those namespaces in which the capabilities hold. 0 is the whole system.
	RootUID uint32
}

// The formats of linux/capability.h, all little endian: a word of revision
// and effective bit, pairs of permitted and inheritable words, and in
// revision 3 the root uid.
const (
	revisionMask = 0xff000000
	revision1    = 0x01000000
	revision2    = 0x02000000
	revision3    = 0x03000000
	effectiveBit = 0x00000001
	size1        = 12
	size2        = 20
	size3        = 24
)

var (
	// ErrEncoding is a value of the attribute that is not in one of the formats.
	ErrEncoding = errors.New("invalid encoding of file capabilities")
	// ErrEffective is a set of effective capabilities that a file cannot have.
	ErrEffective = errors.New("effective capabilities must be none, or all that are permitted or inheritable")
)

// Decode reads the value of the attribute in revision 1, 2 or 3. The error is
// ErrEncoding.
func Decode(value []byte) (Caps, error) {
	if len(value) < 4 {
		return Caps{}, fmt.Errorf("%w: %d bytes", ErrEncoding, len(value))
	}
	magic := binary.LittleEndian.Uint32(value)
	var size int
	switch magic & revisionMask {
	case revision1:
		size = size1
	case revision2:
		size = size2
	case revision3:
		size = size3
	}
	switch {
	case size == 0:
		return Caps{}, fmt.Errorf("%w: revision %#x", ErrEncoding, magic&revisionMask)
	case size != len(value):
		return Caps{}, fmt.Errorf("%w: %d bytes for revision %d, want %d", ErrEncoding, len(value), magic>>24, size)
	}
	word := func(i int) Set { return Set(binary.LittleEndian.Uint32(value[4*i:])) }
	c := Caps{Permitted: word(1), Inheritable: word(2)}
	if size >= size2 {
		c.Permitted |= word(3) << 32
		c.Inheritable |= word(4) << 32
	}
	if size == size3 {
		c.RootUID = uint32(word(5))
	}
	if magic&effectiveBit != 0 {
		c.Effective = c.Permitted | c.Inheritable
	}
	return c, nil
}

// Encode returns the value to store: revision 2, or 3 if RootUID is not 0.
// The error is ErrEffective.
func (c Caps) Encode() ([]byte, error) {
	magic := uint32(revision2)
	if c.RootUID != 0 {
		magic = revision3
	}
	if c.Effective != 0 {
		if c.Effective != c.Permitted|c.Inheritable {
			return nil, fmt.Errorf("%w: %s", ErrEffective, c)
		}
		magic |= effectiveBit
	}
	out := make([]byte, 0, size3)
	for _, word := range [...]uint32{
		magic, uint32(c.Permitted), uint32(c.Inheritable), uint32(c.Permitted >> 32), uint32(c.Inheritable >> 32),
	} {
		out = binary.LittleEndian.AppendUint32(out, word)
	}
	if c.RootUID != 0 {
		out = binary.LittleEndian.AppendUint32(out, c.RootUID)
	}
	return out, nil
}

// String writes the capabilities as an argument that Parse reads back: a clause
// for each combination of flags, "cap_chown,cap_kill=ep cap_setuid=i
// rootuid=1000", or "=" for none.
func (c Caps) String() string {
	var clauses []string
	left := c.Permitted | c.Inheritable | c.Effective
	for left != 0 {
		first := left & -left
		group := left
		flags := ""
		for _, f := range [...]struct {
			name string
			set  Set
		}{{"e", c.Effective}, {"i", c.Inheritable}, {"p", c.Permitted}} {
			if f.set&first != 0 {
				flags += f.name
				group &= f.set
			} else {
				group &^= f.set
			}
		}
		clauses = append(clauses, group.String()+"="+flags)
		left &^= group
	}
	if c.RootUID != 0 {
		clauses = append(clauses, "rootuid="+strconv.FormatUint(uint64(c.RootUID), 10))
	}
	if clauses == nil {
		return "="
	}
	return strings.Join(clauses, " ")
}

// String writes the names, comma between them, lowest number first; a number
// where there is no name, "" for the empty set.
func (s Set) String() string {
	var b strings.Builder
	for ; s != 0; s &= s - 1 {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(Name(bits.TrailingZeros64(uint64(s))))
	}
	return b.String()
}
