package mounts

import "testing"

func TestAnswers(t *testing.T) {
	for fstype, want := range map[string]bool{"tmpfs": true, "ext4": true, "proc": true, "nsfs": true, "overlay": true,
		"fuse": false, "fuse.sshfs": false, "fuse.fuse-overlayfs": false, "fuseblk": false, "nfs4": false, "9p": false, "autofs": false, "": false, "unknown": false} {
		if Answers(fstype) != want {
			t.Errorf("%q: %v", fstype, !want)
		}
	}
}
