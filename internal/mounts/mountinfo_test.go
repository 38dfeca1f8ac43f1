package mounts

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const table = `21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
43 21 0:25 / /run rw,nosuid,nodev shared:5 master:2 - tmpfs tmpfs rw,size=512k,nr_inodes=10,mode=755,noswap
44 43 0:26 /a\040b /run/c\134d rw - tmpfs  rw
45 44 0:27 / /run/c\134d/e ro - proc proc rw
46 21 0:28 / /runner rw - tmpfs none rw
47 43 0:25 /x /run/y rw - tmpfs tmpfs rw,size=512k
`

func TestParse(t *testing.T) {
	got, err := Parse(strings.NewReader(table))
	if err != nil {
		t.Fatal(err)
	}
	want := Mount{ID: 44, Parent: 43, Minor: 26, Root: "/a b", Point: `/run/c\d`, Options: "rw", FSType: "tmpfs", SuperOptions: "rw"}
	if d := cmp.Diff(want, got[2]); d != "" {
		t.Errorf("line 3 (-want +got):\n%s", d)
	}
	if !got[1].Shared() || got[2].Shared() {
		t.Errorf("Shared: %v %v", got[1].Shared(), got[2].Shared())
	}
	if v, ok := got[1].Option("size"); !ok || v != "512k" {
		t.Errorf("size = %q %v", v, ok)
	}
	if _, ok := got[1].Option("noswap"); !ok {
		t.Error("noswap is not there")
	}
	var points []string
	for _, m := range Below(got, 43, "/run") {
		points = append(points, m.Point)
	}
	if d := cmp.Diff([]string{`/run/c\d`, "/run/y"}, points); d != "" {
		t.Errorf("Below (-want +got):\n%s", d)
	}
	if ByID(got, 46) == nil || ByID(got, 99) != nil {
		t.Error("ByID")
	}
}

func TestParseOurOwnTable(t *testing.T) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	list, err := Parse(f)
	if err != nil || len(list) == 0 {
		t.Errorf("%d mounts, %v", len(list), err)
	}
}

func TestParseSaysWhichLine(t *testing.T) {
	good := strings.SplitN(table, "\n", 2)[0] + "\n"
	for _, bad := range []string{"\n", "x\n", "1 2 3 / / rw - a b c\n", "1 x 0:1 / / rw - a b c\n", "1 2 0:1 / / rw shared:1 a b c\n",
		strings.Repeat("x", 1<<20) + "\n"} {
		if _, err := Parse(strings.NewReader(good + bad)); err == nil || !strings.Contains(err.Error(), "mountinfo") {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(table))
	f.Add([]byte("1 2 0:1 / / rw - a b c\n"))
	f.Add([]byte("1 2 0:1 \\0 \\777 rw - a  \n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := Parse(strings.NewReader(string(data)))
		if err != nil && list != nil {
			t.Error("a table and an error")
		}
		for i := range list {
			list[i].Option("size")
			Below(list, list[i].ID, list[i].Point)
		}
	})
}
