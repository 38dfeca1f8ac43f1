package view

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
	"github.com/slashrun/slashrun/internal/vmtest"
)

func descriptors(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}

func mentions(list []string, text string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, text) })
}

// What listmount and statmount say of our own namespace is what mountinfo says.
func TestTablesAgree(t *testing.T) {
	if seccomptest.Current() != seccomptest.None {
		return // the filter denies them; the fallback has tests of its own
	}
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		p, err := process.Open()
		must(t, err)
		defer p.Close()
		must(t, os.MkdirAll("/run/a b\\c\nd/sub", 0o755))
		must(t, linux.Mount("none", "/run/a b\\c\nd", "tmpfs", syscall.MS_RDONLY, ""))
		text, err := p.MountInfo(true)
		must(t, err)
		want, err := parse(text)
		must(t, err)
		fd, err := p.OpenLink("self/ns/mnt")
		must(t, err)
		defer linux.Close(fd)
		kernel := testenv.Requirement{What: "listmount(2) of Linux 6.8", Check: func() error {
			_, err := linux.Listmount(0, 0, make([]uint64, 1))
			return err
		}}
		testenv.Need(t, kernel)
		got, err := tableOf(0)
		must(t, err)
		byID := map[int]linux.MountStatus{}
		for _, m := range got {
			byID[m.ID] = m
		}
		if len(got) != len(want) {
			t.Errorf("%d mounts, mountinfo has %d", len(got), len(want))
		}
		for _, m := range want {
			if g := byID[m.ID]; g != m {
				t.Errorf("statmount: %+v\nmountinfo: %+v", g, m)
			}
		}
	})
}

// A namespace that no process is in is found: by the kernel's list, which also has
// one that a descriptor keeps; else by the file that it is mounted on.
func TestNobodyInside(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		for _, profile := range seccomptest.All {
			t.Run(profile.String(), func(t *testing.T) {
				seccomptest.Run(t, profile, testNobodyInside)
			})
		}
	})
}

func testNobodyInside(t *testing.T) {
	p, err := process.Open()
	must(t, err)
	defer p.Close()
	must(t, os.RemoveAll("/run/app"))
	must(t, os.MkdirAll("/run/app", 0o755))
	must(t, os.WriteFile("/run/app/file", nil, 0o644))
	must(t, os.MkdirAll("/run/pins", 0o755))
	// A mount namespace can be mounted on a private mount alone.
	must(t, linux.Mount("none", "/run/pins", "tmpfs", 0, ""))
	defer linux.Unmount("/run/pins", syscall.MNT_DETACH)
	must(t, os.WriteFile("/run/pins/mnt", nil, 0o644))
	tg := target(t, p, "/run/app/file")

	keep := func(script string) (fd int) {
		must(t, linux.OnThread(linux.CloneNewNS, func() error {
			cmd := exec.CommandContext(t.Context(), "/bin/sh", "-euc", script)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			fd, err = p.OpenLink(fmt.Sprintf("%d/task/%d/ns/mnt", os.Getpid(), syscall.Gettid()))
			return err
		}))
		return fd
	}
	for range 100 {
		pin := keep("mkdir -p /tmp/pinned; mount --bind /run/app /tmp/pinned; mount -o remount,bind,ro /tmp/pinned; umount -l /run")
		err = linux.Mount(fmt.Sprintf("/proc/self/fd/%d", pin), "/run/pins/mnt", "", syscall.MS_BIND, "")
		linux.Close(pin)
		if !errors.Is(err, syscall.EINVAL) {
			break
		}
		// The kernel refuses to mount a namespace in one that it takes for younger, by
		// ids that since Linux 6.18 each processor hands out from a stock of its own.
	}
	must(t, err)
	held := keep("mkdir -p /tmp/held; mount --bind /run/app /tmp/held; umount -l /run")
	defer linux.Close(held)

	places, incomplete, err := Reach(t.Context(), p, tg)
	must(t, err)
	before := descriptors(t)
	if _, _, err = Reach(t.Context(), p, tg); err != nil || descriptors(t) != before {
		t.Errorf("%d descriptors, %d before: %v", descriptors(t), before, err)
	}
	var pinned, kept *Place
	for i := range places {
		switch p := &places[i]; p.Path {
		case "/tmp/pinned/file":
			pinned = p
		case "/tmp/held/file":
			kept = p
		}
	}
	// The listing of namespaces is an ioctl, which no filter of ours denies; asking
	// for their mounts is a new call.
	lists := seccomptest.Current() == seccomptest.None && !mentions(incomplete, "cannot be listed")
	if pinned == nil || !pinned.Confirmed || !pinned.ReadOnly || len(pinned.Namespaces) != 1 || pinned.Namespaces[0].MountedOn != "/run/pins/mnt" {
		t.Errorf("%s%+v\n%q", text(places), pinned, incomplete)
	}
	if lists && (kept == nil || !kept.Confirmed || kept.Namespaces[0].Count != 0) {
		t.Errorf("%s%+v\n%q", text(places), kept, incomplete)
	}
	if !lists && !mentions(incomplete, "neither a process nor a mount") {
		t.Errorf("%q", incomplete)
	}
}

// Linux 6.1 has neither the list of namespaces nor statmount(2).
func TestOldKernel(t *testing.T) {
	o := vmtest.Options{Kernel: vmtest.Bookworm, Modules: []string{"fuse"}}
	if !vmtest.Inside() {
		testenv.Need(t, testenv.Root, testenv.Tool("busybox")) // root is not needed: one pass of the two is enough for a boot
		busybox, err := testenv.LookTool("busybox")
		must(t, err)
		o.Files = map[string]string{"/bin/busybox": busybox}
		o.Links = map[string]string{}
		for _, name := range []string{"sh", "mount", "umount", "mkdir"} {
			o.Links["/bin/"+name] = "busybox"
		}
	}
	vmtest.Run(t, o, func(t *testing.T) {
		must(t, linux.Mount("none", "/tmp", "tmpfs", 0, ""))
		t.Run("reach", testReach)
		t.Run("nobody inside", testNobodyInside)
		t.Run("hung", testHung)
	})
}

// Anybody may keep more namespaces than we have descriptors: what is known is told
// all the same.
func TestManyEmpty(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		must(t, os.MkdirAll("/run/app", 0o755))
		must(t, os.WriteFile("/run/app/file", nil, 0o644))
		p, err := process.Open()
		must(t, err)
		defer p.Close()
		const many = 100
		for range many {
			must(t, linux.OnThread(linux.CloneNewNS, func() error {
				fd, err := p.OpenLink(fmt.Sprintf("%d/task/%d/ns/mnt", os.Getpid(), syscall.Gettid()))
				t.Cleanup(func() { linux.Close(fd) })
				return err
			}))
		}
		s := eye(t, "/run/app/file", 0, eyeFiles+"=64")
		total := 0
		for _, p := range s.Places {
			total += p.Count
		}
		if s.Err != "" || len(s.Places) == 0 || !s.Places[0].Namespaces[0].Own || !s.Places[0].Confirmed {
			t.Errorf("%+v", s)
		}
		if !mentions(s.Incomplete, "cannot be listed") && (total < many || !mentions(s.Incomplete, "there are too many")) {
			t.Errorf("%d of %d: %q", total, many, s.Incomplete)
		}
	})
}
