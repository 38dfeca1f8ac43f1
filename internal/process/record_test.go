package process

import (
	"errors"
	"strings"
	"testing"
)

const boot = "01234567-89ab-cdef-0123-456789abcdef"

var whole = Record{PID: 42, BootID: boot, InitStart: 7, PIDNS: 4026531836, Start: 12345, Handle: 99, Locked: true}

func TestParseRecord(t *testing.T) {
	bare := Record{PID: 42}
	locked := Record{PID: 42, Locked: true}
	noHandle := whole
	noHandle.Handle = 0
	for text, want := range map[string]Record{
		"42": bare, "42\n": bare, "42\n\n": bare, " 42 \t\n": bare, "42\r\n": bare, "00042\n": bare, "4194304\n": {PID: 4194304},
		// postmaster.pid: data directory, start time, port, socket directory, address, key, state.
		"42\n/var/lib/postgresql/15/main\n1700000000\n5432\n/var/run/postgresql\n*\n  5432001     65536\nready   \n": bare,
		whole.Text():                                whole,
		noHandle.Text():                             noHandle,
		strings.TrimSuffix(whole.Text(), "\n"):      whole,
		whole.Text() + "another-key=5\nand words\n": whole,
		// Half of an identity is none.
		strings.Replace(whole.Text(), "start=12345\n", "", 1):         locked,
		strings.Replace(whole.Text(), "start=12345", "start=-1", 1):   locked,
		strings.Replace(whole.Text(), "start=12345", "start= 1", 1):   locked,
		strings.Replace(whole.Text(), boot, strings.ToUpper(boot), 1): locked,
		whole.Text() + "start=12345\n":                                locked,
		whole.Text()[:60]:                                             bare,
		"42\nlock=flock\n":                                            locked, "42\nlock=ofd\n": bare,
	} {
		if got, err := ParseRecord([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "\n", " \n\t\n", "0", "0\n", "-1\n", "+1\n", "1 2\n", "1a\n", "a\n", "0x10\n", "1_000\n", "1.5\n", "\n42\n", "4194305\n", "99999999999999999999999\n",
		"42\x00", "\x00\x00\x00", "pid=42\n", "42\n" + strings.Repeat("x", maxRecord), "４２\n",
	} {
		if got, err := ParseRecord([]byte(text)); !errors.Is(err, ErrNoPID) || got != (Record{}) {
			t.Errorf("%q: %+v, %v", text, got, err)
		} else if blank := strings.TrimSpace(text) == ""; errors.Is(err, ErrEmpty) != blank {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Readers there are take every word of digits for a PID.
func TestTextHasOneWordOfDigits(t *testing.T) {
	var n int
	for _, word := range strings.Fields(whole.Text()) {
		if _, err := ParsePID(word); err == nil {
			n++
		}
	}
	if n != 1 || !strings.HasPrefix(whole.Text(), "42\n") {
		t.Errorf("%q has %d words of digits", whole.Text(), n)
	}
	if got := (Record{PID: 42, Locked: true}).Text(); got != "42\nlock=flock\n" {
		t.Errorf("a locked record is %q", got)
	}
	if got := (Record{PID: 42}).Text(); got != "42\n" {
		t.Errorf("a bare record is %q", got)
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(whole.Text()))
	f.Add([]byte("42\n/var/lib/postgresql/15/main\n1700000000\n"))
	f.Add([]byte(" 7 \r\n"))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRecord(text)
		if err != nil {
			if r != (Record{}) || !errors.Is(err, ErrNoPID) {
				t.Fatalf("%+v with %v", r, err)
			}
			return
		}
		if r.PID < 1 || r.PID > MaxPID {
			t.Fatalf("PID %d", r.PID)
		}
		if back, err := ParseRecord([]byte(r.Text())); err != nil || back != r {
			t.Fatalf("%+v was read back as %+v, %v", r, back, err)
		}
	})
}
