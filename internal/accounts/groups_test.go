package accounts

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// Names at every place of a line that is longer than what is read at once.
func TestMembersOfLongLines(t *testing.T) {
	for _, at := range []int{maxLine - 9, maxLine - 5, maxLine - 1, maxLine, maxLine + 1, 2*maxLine + 3, 5 * maxLine} {
		for _, after := range []string{"", ",x", ",alicex"} {
			head := "big:x:7:"
			filler := strings.Repeat("m,", (at-len(head))/2)
			text := "first:x:1:alice\n" + head + filler + "alice" + after + "\nother:x:8:" + filler + "alicia,xalice,al,ice\nlast:x:9:b,alice"
			var got []uint32
			if err := parseMembers(strings.NewReader(text), "alice", func(gid uint32) { got = append(got, gid) }); err != nil {
				t.Fatal(err)
			}
			if want := []uint32{1, 7, 9}; !slices.Equal(got, want) {
				t.Errorf("name at %d before %q: groups %v, want %v", at, after, got, want)
			}
		}
	}
}

func TestMembersOfOddLines(t *testing.T) {
	const text = "# alice\n\n+x:x:1:alice\n-y:x:2:alice\nnan:x:n:alice\nshort:x:3\nnone:x:4:\n  spaces:x:5: alice ,b\nempty:x:6:,,alice,\ntoo:x:4294967296:alice\nnul:x:8:alice\x00,b\n"
	var got []uint32
	if err := parseMembers(strings.NewReader(text), "alice", func(gid uint32) { got = append(got, gid) }); err != nil {
		t.Fatal(err)
	}
	if want := []uint32{5, 6, 8}; !slices.Equal(got, want) {
		t.Errorf("groups %v, want %v", got, want)
	}
	broken := errors.New("broken")
	if err := parseMembers(iotest.ErrReader(broken), "alice", func(uint32) {}); !errors.Is(err, broken) {
		t.Errorf("a file that cannot be read: %v", err)
	}
}
