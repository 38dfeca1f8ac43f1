package fuser

import (
	"bytes"
	"testing"
)

func TestParseMapping(t *testing.T) {
	for line, want := range map[string]string{
		"7f1c4a000000-7f1c4a021000 rw-s 00000000 00:1b 4711                       /run/a b (deleted)": "7f1c4a000000 0:27 4711 true /run/a b (deleted)",
		"00400000-00452000 r-xp 00000000 fe:00 173521 /usr/bin/dbus-daemon":                           "00400000 254:0 173521 false /usr/bin/dbus-daemon",
		"00400000-00452000 rw-p 00000000 fe:00 173521 /private":                                       "00400000 254:0 173521 false /private",
		"7ffd-7ffe rw-p 00000000 00:00 0                          [stack]":                            "",
		"7ffd-7ffe rw-p 00000000 00:00 0 ":                                                            "",
		"7ffd rw-p 00000000 00:00 7 /x":                                                               "",
		"7ffd-7ffe rw 00000000 00:00 7 /x":                                                            "",
		"7ffd-7ffe rw-p 00000000 0000 7 /x":                                                           "",
		"7ffd-7ffe rw-p 00000000 00:00 x /x":                                                          "",
		"7ffd-7ffe rw-p":                                                                              "",
		"":                                                                                            "",
	} {
		m, ok := parseMapping([]byte(line))
		got := ""
		if ok {
			got = string(m.from) + " " + itoa(m.major) + ":" + itoa(m.minor) + " " + itoa(m.ino) + " " + map[bool]string{true: "true", false: "false"}[m.write] + " " + string(m.path)
		}
		if got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func itoa[T uint32 | uint64](n T) string {
	var b []byte
	for ; n > 0 || len(b) == 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

func FuzzParseMapping(f *testing.F) {
	f.Add([]byte("7f1c4a000000-7f1c4a021000 rw-s 00000000 00:1b 4711   /run/x"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if m, ok := parseMapping(line); ok && (m.ino == 0 || !bytes.HasPrefix(line, m.from)) {
			t.Errorf("%q: %+v", line, m)
		}
	})
}
