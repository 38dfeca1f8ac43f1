package btrfstest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/slashrun/slashrun/internal/btrfs"
	"github.com/slashrun/slashrun/internal/linux"
)

const (
	oursSide = "ours"
	refSide  = "reference"
)

var sides = []string{refSide, oursSide}

// machine is one case on its way.
type machine struct {
	name  string
	top   string // instead of /mnt
	below string // the root is a directory there
	env   []string
	weak  bool
	user  bool
	ids   map[string]map[uint64]string // of a side: subvolumes by what they are, or were, in the tree
}

func (m *machine) root(side string) string {
	return cmp.Or(m.top, "/mnt/") + m.name + "-" + side + m.below
}

// both makes a step of what is done to one tree.
func both(f func(root string) error) step {
	return func(t *testing.T, m *machine) {
		t.Helper()
		for _, side := range sides {
			if err := f(m.root(side)); err != nil {
				t.Fatalf("%s: %v", side, err)
			}
		}
	}
}

func subvolume(path string) step {
	return both(func(root string) error {
		return onDir(filepath.Dir(root+path), func(fd int) error { return linux.BtrfsSubvolCreate(fd, filepath.Base(root+path)) })
	})
}

func directory(path string) step {
	return both(func(root string) error { return os.MkdirAll(root+path, 0o755) })
}

func link(path, target string) step {
	return both(func(root string) error { return os.Symlink(target, root+path) })
}

func file(path string) step {
	return both(func(root string) error { return os.WriteFile(root+path, nil, 0o644) })
}

// group makes a group of the level and of the subvolume's number, and the
// subvolume a member.
func group(level uint16, path string) step {
	return both(func(root string) error {
		return onDir(root+path, func(fd int) error {
			id, err := btrfs.Subvolume(fd)
			if err != nil {
				return err
			}
			g := btrfs.MakeQgroup(level, id)
			return btrfs.Plan{Insert: g, Assign: []btrfs.Membership{{Child: btrfs.MakeQgroup(0, id), Parent: g}}}.Apply(fd)
		})
	})
}

func conf(text string) step {
	return both(func(root string) error {
		if err := os.MkdirAll(root+"/etc/tmpfiles.d", 0o755); err != nil {
			return err
		}
		return os.WriteFile(root+"/etc/tmpfiles.d/test.conf", []byte(text), 0o644)
	})
}

func plainRoot() step {
	return func(t *testing.T, m *machine) {
		t.Helper()
		directory("/plain")(t, m)
		m.below = "/plain"
	}
}

// elsewhere has the root on a tmpfs.
func elsewhere() step {
	return func(t *testing.T, m *machine) {
		t.Helper()
		m.top = "/run/"
		directory("")(t, m)
	}
}

func readOnly(path string) step {
	return both(func(root string) error { return onDir(root+path, linux.BtrfsSetReadOnly) })
}

// mount mounts a tmpfs.
func mount(path string) step {
	return both(func(root string) error { return linux.Mount("tmpfs", root+path, "tmpfs", 0, "") })
}

func unmount(path string) step {
	return both(func(root string) error { return linux.Unmount(root+path, 0) })
}

// owned gives the root away.
func owned() step { return both(func(root string) error { return os.Chown(root, nobody, nobody) }) }

const nobody = 65534

func env(s string) step { return func(_ *testing.T, m *machine) { m.env = append(m.env, s) } }

// weak takes CAP_SYS_ADMIN from the programs.
func weak() step { return func(_ *testing.T, m *machine) { m.weak = true } }

// user has somebody run the programs who is not root.
func user() step { return func(_ *testing.T, m *machine) { m.user = true } }

// run calls both programs. Ours says first, in a dry run, what it will do.
func run(args ...string) step {
	return func(t *testing.T, m *machine) {
		t.Helper()
		ours := append([]string{"--root=" + m.root(oursSide), "--json"}, args...)
		planned, planCode, _ := m.exec(t, "/slashrun-tmpfiles/systemd-tmpfiles", append(ours, "--dry-run")...)
		done, code, stderr := m.exec(t, "/slashrun-tmpfiles/systemd-tmpfiles", ours...)
		if diff := gocmp.Diff(changes(t, planned), changes(t, done)); diff != "" || planCode != code {
			t.Errorf("%v: statuses %d and %d, changes (- dry run, + run):\n%s", args, planCode, code, diff)
		}
		_, want, refStderr := m.exec(t, "/reference/systemd-tmpfiles", append([]string{"--root=" + m.root(refSide)}, args...)...)
		if code != want {
			t.Errorf("%v: status %d, of the reference %d\n%s--- reference\n%s", args, code, want, stderr, refStderr)
		}
		m.compare(t)
	}
}

func (m *machine) exec(t *testing.T, exe string, args ...string) (stdout []byte, code int, stderr string) {
	t.Helper()
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), m.env...)
	if m.user {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	if m.weak {
		cmd.Path, cmd.Args = "/proc/self/exe", append([]string{os.Args[0], weakArg, exe}, args...)
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.Bytes(), cmd.ProcessState.ExitCode(), errs.String()
}

// changes reads the changes of --json. The number of a new subvolume is not known
// before it is there.
func changes(t *testing.T, text []byte) []string {
	t.Helper()
	var report struct {
		Changes []struct{ Action, Path, To string }
	}
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	var s []string
	for _, c := range report.Changes {
		fields := strings.Fields(c.To)
		for i, f := range fields {
			if level, _, ok := strings.Cut(f, "/"); ok && c.Action == "set-quota-groups" {
				fields[i] = level + "/id"
			}
		}
		s = append(s, c.Action+" "+c.Path+" "+strings.Join(fields, " "))
	}
	return s
}

func (m *machine) compare(t *testing.T) {
	t.Helper()
	trees := map[string][]string{}
	for _, side := range sides {
		tree, err := m.describe(side)
		must(t, err)
		trees[side] = tree
	}
	if diff := gocmp.Diff(trees[refSide], trees[oursSide]); diff != "" {
		t.Errorf("trees (- reference, + ours):\n%s", diff)
	}
	t.Logf("the tree:\n%s", strings.Join(trees[refSide], "\n"))
}

// describe has a line for each node below root, and for each group that has the
// number of a subvolume that is or was there.
func (m *machine) describe(side string) ([]string, error) {
	var lines []string
	root, alive := m.root(side), map[uint64]bool{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		var st syscall.Stat_t
		if err == nil {
			err = syscall.Lstat(path, &st)
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		line := fmt.Sprintf("%s %o %d:%d", name, st.Mode, st.Uid, st.Gid)
		for _, acl := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
			var value [1024]byte
			if n, err := syscall.Getxattr(path, acl, value[:]); err == nil && st.Mode&syscall.S_IFMT != syscall.S_IFLNK {
				line += fmt.Sprintf(" %s=%x", acl, value[:n])
			}
		}
		if st.Ino == btrfs.RootInode && m.top == "" {
			line += " subvolume"
			err = onDir(path, func(fd int) error {
				id, err := btrfs.Subvolume(fd)
				if m.ids[side] == nil {
					m.ids[side] = map[uint64]string{}
				}
				m.ids[side][id], alive[id] = "<"+name+">", true
				return err
			})
		}
		lines = append(lines, line)
		return err
	})
	if err == nil && m.top == "" {
		err = onDir(root, func(fd int) error {
			all, err := linux.BtrfsSearch(fd, linux.BTRFS_QUOTA_TREE_OBJECTID, 0, linux.BTRFS_QGROUP_INFO_KEY)
			if errors.Is(err, syscall.ENOENT) {
				return nil
			}
			for _, it := range all {
				g := btrfs.Qgroup(it.Offset)
				// The kernel removes the group of a subvolume that is gone some time later.
				if m.ids[side][g.ID()] == "" || g.Level() == 0 && !alive[g.ID()] {
					continue
				}
				line, err := m.group(side, fd, g)
				if err != nil {
					return err
				}
				lines = append(lines, line)
			}
			return err
		})
	}
	slices.Sort(lines)
	return lines, err
}

// group is the group g and, in brackets, what it is a member of, and that of, and
// so on.
func (m *machine) group(side string, fd int, g btrfs.Qgroup) (string, error) {
	up, err := btrfs.Parents(fd, g)
	if err != nil {
		return "", err
	}
	s := fmt.Sprintf("%d/%s", g.Level(), cmp.Or(m.ids[side][g.ID()], "of no subvolume here"))
	for _, p := range up {
		above, err := m.group(side, fd, p)
		if err != nil {
			return "", err
		}
		s += " in [" + above + "]"
	}
	return s, nil
}

func onDir(path string, f func(fd int) error) error {
	fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_RDONLY|linux.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	if err := f(fd); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
