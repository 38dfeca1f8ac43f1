package lockfile

import (
	"os"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// On overlayfs, with layers on two file systems and on one: a file of a lower
// layer that is open and locked is copied up by another who opens it for
// writing. It is the same file, whatever its numbers are.
func TestOverlayfs(t *testing.T) {
	testenv.Need(t, testenv.Root) // who may not write opens for reading, and root always may: see below
	nstest.Run(t, nstest.Options{}, onOverlayfs)
}

func onOverlayfs(t *testing.T) {
	for name, lower := range map[string]string{"one": "/run/one/lower", "two": "/run/lower"} {
		t.Run(name, func(t *testing.T) {
			for _, dir := range []string{"/run/" + name, lower, "/run/" + name + "/merged"} {
				must(t, os.MkdirAll(dir, 0o755))
			}
			layers := "/run/" + name
			if name == "two" {
				layers += "/fs"
				must(t, os.Mkdir(layers, 0o755))
				must(t, linux.Mount("test", layers, "tmpfs", 0, ""))
				defer linux.Unmount(layers, syscall.MNT_DETACH)
			}
			must(t, os.Mkdir(layers+"/upper", 0o755))
			must(t, os.Mkdir(layers+"/work", 0o755))
			must(t, os.WriteFile(lower+"/lock", nil, 0o444))
			merged := "/run/" + name + "/merged"
			must(t, linux.Mount("test", merged, "overlay", 0,
				"userxattr,lowerdir="+lower+",upperdir="+layers+"/upper,workdir="+layers+"/work"))
			defer linux.Unmount(merged, syscall.MNT_DETACH)
			eachKind(t, func(t *testing.T, o Options) {
				if o.Kind == OFD || o.Fair {
					return // needs a descriptor for writing, which copies up at once
				}
				path := merged + "/lock"
				a := &Lock{path: path, name: []byte(path + "\x00"), dir: linux.AT_FDCWD, opts: o}
				fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_RDONLY, 0) // as one who may not write
				must(t, err)
				must(t, a.adopt(fd))
				defer a.Close()
				must(t, a.TryLock())
				must(t, a.Check())
				dev, ino := a.dev, a.ino
				b := open(t, path, o) // copies up
				must(t, a.Check())
				t.Logf("device %d and inode %d before, %d and %d after", dev, ino, a.dev, a.ino)
				wantErr(t, b.TryLock(), ErrHeld)
				h, err := b.Holders(t.Context())
				must(t, err)
				if len(h.Processes) != 1 || h.Processes[0].PID != os.Getpid() {
					t.Errorf("%+v", h)
				}
				must(t, a.Unlock())
				must(t, b.TryLock())
				wantErr(t, a.TryLock(), ErrHeld)
			})
		})
	}
}
