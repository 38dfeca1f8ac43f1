// Package btrfstest holds slashrun tmpfiles against systemd-tmpfiles 262 on btrfs,
// in a virtual machine: subvolumes and quota groups (v, q and Q lines), and what
// clean-ups do with subvolumes.
//
// Both work on equal subvolumes of one file system, made by the same steps. What
// is compared is the exit status and the tree: type, mode, owner, whether it is a
// subvolume, and of which groups it is a member, by the names of the subvolumes.
package btrfstest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/btrfs"
	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/testenv"
	"github.com/slashrun/slashrun/internal/vmtest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == weakArg {
		weakMain(os.Args[2:])
	}
	vmtest.Main(m)
}

// weakArg starts a program without CAP_SYS_ADMIN.
const weakArg = "without-sys-admin"

func weakMain(argv []string) {
	const sysAdmin = 21 // linux/capability.h
	runtime.LockOSThread()
	err := linux.DropBounding(^uint64(1 << sysAdmin))
	if err == nil {
		err = syscall.Exec(argv[0], argv, os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(126)
}

const reference = "systemd-tmpfiles/usr/bin/systemd-tmpfiles"

// step is what is done to both trees, or one call of both programs.
type step func(t *testing.T, m *machine)

func TestSubvolumes(t *testing.T) {
	o := vmtest.Options{Kernel: vmtest.Forky, Modules: []string{"btrfs"}, Memory: 1024}
	if !vmtest.Inside() {
		testenv.Need(t, testenv.Root, testenv.Tool("mkfs.btrfs"), testenv.Dep(reference))
		o.Disk = disk(t)
		o.Files = programs(t)
	}
	vmtest.Run(t, o, func(t *testing.T) {
		must(t, os.Mkdir("/mnt", 0o755))
		must(t, linux.Mount("/dev/nvme0n1", "/mnt", "btrfs", 0, ""))
		defer linux.Unmount("/mnt", syscall.MNT_DETACH)
		now := noQuota
		for _, c := range cases {
			if c.quota != now {
				must(t, onDir("/mnt", func(fd int) error { return switchQuota(fd, now, c.quota) }))
				now = c.quota
			}
			t.Run(c.name, func(t *testing.T) {
				m := &machine{name: strings.ReplaceAll(c.name, " ", "-"), ids: map[string]map[uint64]string{}}
				subvolume("")(t, m)
				for _, s := range c.steps {
					s(t, m)
				}
			})
		}
		t.Run("given up", givenUp)
	})
}

// givenUp: what fails half-way leaves nothing behind. Quotas are on.
func givenUp(t *testing.T) {
	must(t, os.Mkdir("/mnt/given-up", 0o755))
	d, err := fsat.OpenDir("/mnt/given-up")
	must(t, err)
	defer d.Close()
	a := fsat.Attr{UID: fsat.KeepID, GID: fsat.KeepID, Mode: 0o750}
	old := linux.Umask(0)
	defer linux.Umask(old)
	err = d.MakeSubvolume("a", a, func(int) error { return syscall.EDQUOT })
	if names, _ := d.Names(); !errors.Is(err, syscall.EDQUOT) || len(names) > 0 {
		t.Errorf("%v, and %q are there", err, names)
	}
	nothing := func(int) error { return nil }
	must(t, d.MakeSubvolume("a", a, nothing))
	for _, before := range []func(int) error{nothing, nil} {
		err = d.MakeSubvolume("a", a, before)
		if names, _ := d.Names(); !errors.Is(err, syscall.EEXIST) || len(names) != 1 {
			t.Errorf("%v, and %q are there", err, names)
		}
	}
	if linux.Umask(0) != 0 {
		t.Error("the umask is another one now")
	}

	must(t, onDir("/mnt/given-up/a", func(fd int) error {
		id, err := btrfs.Subvolume(fd)
		if err != nil {
			return err
		}
		all := func() int {
			found, err := linux.BtrfsSearch(fd, linux.BTRFS_QUOTA_TREE_OBJECTID, 0, linux.BTRFS_QGROUP_INFO_KEY)
			must(t, err)
			return len(found)
		}
		g, before := btrfs.MakeQgroup(7, id), all()
		plan := btrfs.Plan{Insert: g, Assign: []btrfs.Membership{{Child: g, Parent: btrfs.MakeQgroup(9, 1<<40)}}}
		if err := plan.Apply(fd); err == nil {
			t.Error("a group became a member of one that is not there")
		}
		if after := all(); after != before {
			t.Errorf("%d groups, before there were %d", after, before)
		}
		return nil
	}))
}

// quota is how quotas are counted.
type quota int

const (
	noQuota quota = iota
	fullQuota
	simpleQuota
)

func switchQuota(fd int, from, to quota) error {
	if from != noQuota {
		if err := linux.BtrfsQuotaCtl(fd, linux.BTRFS_QUOTA_CTL_DISABLE); err != nil {
			return err
		}
	}
	switch to {
	case fullQuota:
		return linux.BtrfsQuotaCtl(fd, linux.BTRFS_QUOTA_CTL_ENABLE)
	case simpleQuota:
		return linux.BtrfsQuotaCtl(fd, linux.BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA)
	}
	return nil
}

// disk makes an empty btrfs.
func disk(t *testing.T) *vmtest.Disk {
	t.Helper()
	d := &vmtest.Disk{Path: filepath.Join(t.TempDir(), "btrfs.img")}
	must(t, os.WriteFile(d.Path, nil, 0o600))
	must(t, os.Truncate(d.Path, 256<<20))
	mkfs, err := testenv.LookTool("mkfs.btrfs")
	must(t, err)
	if out, err := exec.Command(mkfs, "-q", d.Path).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.btrfs: %v\n%s", err, out)
	}
	return d
}

// programs are slashrun and the reference with its libraries.
func programs(t *testing.T) map[string]string {
	t.Helper()
	ours := filepath.Join(t.TempDir(), "slashrun")
	cmd := exec.Command("go", "build", "-o", ours, "github.com/slashrun/slashrun/cmd/slashrun")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	ref := filepath.Join(testenv.DepsDir(), reference)
	files := map[string]string{"/slashrun-tmpfiles/systemd-tmpfiles": ours, "/reference/systemd-tmpfiles": ref}
	libraries(t, files, ref)
	for lib := range maps.Clone(files) {
		// What it opens by name, and needs with --root.
		if path.Base(lib) == "libc.so.6" {
			libraries(t, files, path.Dir(lib)+"/libselinux.so.1", path.Dir(lib)+"/libacl.so.1")
		}
	}
	return files
}

// libraries puts those that programs and libraries need into files.
func libraries(t *testing.T, files map[string]string, of ...string) {
	t.Helper()
	out, err := exec.Command("ldd", of...).Output()
	must(t, err)
	for _, word := range append(strings.Fields(string(out)), of...) {
		word = strings.TrimSuffix(word, ":")
		if !strings.Contains(path.Base(word), ".so") {
			continue
		}
		if strings.HasPrefix(word, "/") {
			real, err := filepath.EvalSymlinks(word)
			must(t, err)
			files[word] = real
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
