package mounts

import "testing"

// An overlay is as good as the worst of its layers.
func TestAnswersIn(t *testing.T) {
	table := []Mount{
		{ID: 1, Point: "/", FSType: "nfs4"},
		{ID: 2, Point: "/mnt/fuse", FSType: "fuse.sshfs"},
		{ID: 3, Point: "/mnt/disk", FSType: "ext4"},
		{ID: 4, Point: "/mnt/disk/a,b:c", FSType: "fuse"},
		{ID: 5, Point: "/mnt/over", FSType: "overlay", SuperOptions: "rw,lowerdir=/mnt/fuse/x,upperdir=/mnt/disk/u,workdir=/mnt/disk/w"},
	}
	for options, want := range map[string]bool{
		"ro,lowerdir=/mnt/disk/a:/mnt/disk/b":                true,
		"ro,lowerdir=/mnt/disk/a:/mnt/fuse":                  false,
		"ro,lowerdir=/mnt/disk/a:/mnt/fuse/b":                false,
		"ro,lowerdir=/mnt/fused:l/relative":                  true,
		"ro,lowerdir+=/mnt/disk/a,lowerdir+=/mnt/fuse/b":     false,
		"ro,lowerdir=/mnt/disk/a::/mnt/fuse/data":            false,
		"rw,lowerdir=/mnt/disk/a,upperdir=/mnt/fuse/u":       false,
		`ro,lowerdir=/mnt/disk/a\134\054b\134:c/x:/mnt/disk`: false,
		"ro,lowerdir=/mnt/over/x":                            false,
		"ro,lowerdir=/etc":                                   true,
	} {
		if got := AnswersIn(table, &Mount{ID: 9, Point: "/x", FSType: "overlay", SuperOptions: options}); got != want {
			t.Errorf("%s: %v", options, got)
		}
	}
	for i, want := range []bool{true, false, true, false, false} {
		if AnswersIn(table, &table[i]) != want {
			t.Errorf("%s: %v", table[i].Point, !want)
		}
	}
}
