package posixacl

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The names under which the kernel stores the two lists of a file.
const (
	XattrAccess  = "system.posix_acl_access"
	XattrDefault = "system.posix_acl_default"
)

// The format of linux/posix_acl_xattr.h: a version, then entries of tag,
// permissions and ID, all little endian on every machine.
const (
	xattrVersion = 2
	headerSize   = 4
	entrySize    = 8
)

// ErrEncoding is a value of an attribute that is no encoded list.
var ErrEncoding = errors.New("invalid encoding of an ACL")

// Encode returns the value to store for the list, in the list's order: Sort
// it first. The condition of CondExec cannot be stored.
func (a ACL) Encode() []byte {
	out := make([]byte, 0, headerSize+len(a)*entrySize)
	out = binary.LittleEndian.AppendUint32(out, xattrVersion)
	for _, e := range a {
		id := NoID
		if e.named() {
			id = e.ID
		}
		out = binary.LittleEndian.AppendUint16(out, uint16(e.Tag))
		out = binary.LittleEndian.AppendUint16(out, uint16(e.Perm))
		out = binary.LittleEndian.AppendUint32(out, id)
	}
	return out
}

// Decode reads the value of an attribute. An empty value is an empty list, as
// for the kernel. The error is ErrEncoding.
func Decode(value []byte) (ACL, error) {
	if len(value) == 0 {
		return nil, nil
	}
	if len(value) < headerSize || (len(value)-headerSize)%entrySize != 0 {
		return nil, fmt.Errorf("%w: %d bytes", ErrEncoding, len(value))
	}
	if v := binary.LittleEndian.Uint32(value); v != xattrVersion {
		return nil, fmt.Errorf("%w: version %d, want %d", ErrEncoding, v, xattrVersion)
	}
	a := make(ACL, 0, (len(value)-headerSize)/entrySize)
	for rest := value[headerSize:]; len(rest) > 0; rest = rest[entrySize:] {
		perm := binary.LittleEndian.Uint16(rest[2:])
		if perm > 7 {
			return nil, fmt.Errorf("%w: permissions %#x", ErrEncoding, perm)
		}
		e := Entry{Tag: Tag(binary.LittleEndian.Uint16(rest)), ID: NoID, Perm: Perm(perm)}
		if e.named() {
			e.ID = binary.LittleEndian.Uint32(rest[4:])
		}
		a = append(a, e)
	}
	return a, nil
}
