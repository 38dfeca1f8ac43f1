package fsat

import (
	"bytes"
	"encoding/binary"
	"iter"
)

// Entry is one record of getdents64(2). Name lies in the caller's buffer and is
// valid until the buffer is used again; NameNul is the same with its ending NUL
// byte, for calls that take a C string.
type Entry struct {
	Ino     uint64
	Type    byte // DT_*; DT_UNKNOWN (0) where the file system does not say
	Name    []byte
	NameNul []byte
}

// Entries walks the records that getdents64 put into buf, without . and ..
// (linux/dirent.h: u64 ino, s64 off, u16 reclen, u8 type, char name[]).
func Entries(buf []byte) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for len(buf) >= 19 {
			reclen := int(binary.NativeEndian.Uint16(buf[16:]))
			if reclen < 20 || reclen > len(buf) {
				return
			}
			rec := buf[:reclen]
			buf = buf[reclen:]
			end := bytes.IndexByte(rec[19:], 0)
			if end < 0 {
				continue
			}
			name := rec[19 : 19+end]
			if len(name) == 0 || name[0] == '.' && (len(name) == 1 || len(name) == 2 && name[1] == '.') {
				continue
			}
			e := Entry{Ino: binary.NativeEndian.Uint64(rec), Type: rec[18], Name: name, NameNul: rec[19 : 20+end]}
			if !yield(e) {
				return
			}
		}
	}
}
