package stale

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/sockdiag"
)

const attackerName = "stale-attacker"

// attackerMain owns the working directory and exchanges the names in it as fast
// as it can, ours among them: "s" for live sockets, for orphans, for a link out
// of the directory and for a directory; the boxes of Remove for directories of its
// own. It never replaces and never unlinks, so that every name that goes was
// removed by the other side. It says how often it did, and ends with its input.
func attackerMain() {
	rnd := rand.New(rand.NewPCG(7, 7))
	fd, err := linux.Openat(linux.AT_FDCWD, ".", linux.O_RDONLY|linux.O_DIRECTORY, 0)
	if err != nil {
		os.Exit(1)
	}
	done := make(chan bool)
	go func() {
		os.Stdin.Read(make([]byte, 1))
		close(done)
	}()
	go ambush(fd)
	swaps, boxes := 0, 0
	var names []string
	for i := 0; ; i++ {
		select {
		case <-done:
			fmt.Printf("%d %d\n", swaps, boxes)
			os.Exit(0)
		default:
		}
		if i%6 == 0 {
			d, err := os.Open(".")
			if err != nil {
				os.Exit(1)
			}
			names, _ = d.Readdirnames(-1)
			d.Close()
		}
		if len(names) == 0 {
			continue
		}
		a := names[rnd.IntN(len(names))]
		err = linux.Renameat2(fd, "s", fd, a, linux.RENAME_EXCHANGE)
		if err != nil {
			err = linux.Renameat2(fd, a, fd, "s", linux.RENAME_NOREPLACE)
		}
		for _, box := range names {
			if i%3 == 0 && strings.HasPrefix(box, fsat.TempPrefix) && linux.Renameat2(fd, box, fd, a, linux.RENAME_EXCHANGE) == nil {
				boxes++
				break
			}
		}
		if err == nil {
			swaps++
		}
	}
}

// ambush waits for the box that Remove makes, which comes right before the last
// look and the move, and then exchanges "s" for live sockets as fast as it can.
func ambush(fd int) {
	in, err := syscall.InotifyInit1(syscall.IN_CLOEXEC)
	if err != nil {
		os.Exit(1)
	}
	if _, err := syscall.InotifyAddWatch(in, ".", syscall.IN_CREATE|syscall.IN_ONLYDIR); err != nil {
		os.Exit(1)
	}
	buf := make([]byte, 64<<10)
	for i := 0; ; i++ {
		if _, err := syscall.Read(in, buf); err != nil {
			os.Exit(1)
		}
		for n := range 40 {
			linux.Renameat2(fd, "s", fd, "live"+strconv.Itoa((i+n/2)%24), linux.RENAME_EXCHANGE)
		}
	}
}

// Somebody who owns the directory exchanges names all through Look and Remove.
// Nothing live and nothing outside goes, ever, and orphans do.
func TestAttackerOwnsTheDirectory(t *testing.T) {
	inside(t, func(t *testing.T) {
		const user = 65534
		dir, outside := t.TempDir(), t.TempDir()
		must(t, os.Chmod(dir, 0o777))
		must(t, os.Chown(dir, user, user))
		must(t, os.Chmod(outside, 0o777))
		for _, d := range []string{dir + "/..", outside + "/.."} {
			must(t, os.Chmod(d, 0o755))
		}
		const live, orphans = 24, 400
		type held struct {
			fd   int
			name string
			used bool
		}
		var all []held
		hold := func(name string, used bool) {
			fd, err := linux.Openat(linux.AT_FDCWD, name, linux.O_PATH|linux.O_NOFOLLOW, 0)
			must(t, err)
			all = append(all, held{fd, name, used})
		}
		for i := range live { // some of them another's than the attacker's
			fd, err := syscall.Socket(syscall.AF_UNIX, []int{syscall.SOCK_STREAM, syscall.SOCK_DGRAM, syscall.SOCK_SEQPACKET}[i%3]|syscall.SOCK_CLOEXEC, 0)
			must(t, err)
			defer syscall.Close(fd)
			name := fmt.Sprintf("%s/live%d", dir, i)
			must(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: name}))
			hold(name, true)
		}
		for i := range orphans {
			orphan(t, fmt.Sprintf("%s/o%d", dir, i))
		}
		// Things that are no sockets, and outside of the directory a dead PID's file
		// and an orphan that a link leads to.
		orphan(t, outside+"/s")
		must(t, os.WriteFile(outside+"/file", nil, 0o600))
		for i := range 4 {
			must(t, os.Mkdir(fmt.Sprintf("%s/dir%d", dir, i), 0o755))
			must(t, os.WriteFile(fmt.Sprintf("%s/dir%d/s", dir, i), nil, 0o644))
			must(t, os.WriteFile(fmt.Sprintf("%s/file%d", dir, i), nil, 0o644))
			must(t, os.Symlink(outside+"/s", fmt.Sprintf("%s/link%d", dir, i)))
			must(t, os.Symlink(outside, fmt.Sprintf("%s/away%d", dir, i)))
			for _, n := range []string{"dir%d/s", "file%d", "link%d", "away%d"} {
				hold(dir+"/"+fmt.Sprintf(n, i), true)
			}
		}
		hold(outside+"/s", true)
		hold(outside+"/file", true)
		orphan(t, dir+"/s")
		waitOld(t, dir+"/s")

		cmd := exec.Command("/proc/self/exe")
		cmd.Args, cmd.Dir = []string{attackerName}, dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
		in, err := cmd.StdinPipe()
		must(t, err)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, os.Stderr
		must(t, cmd.Start())

		j := newJudge(t, Options{})
		d, err := fsat.OpenDir(dir)
		must(t, err)
		defer d.Close()
		counts := map[string]int{}
		const tries = 40000
		enough := orphans / 2
		if testing.Short() {
			enough = orphans / 10
		}
		for i := 0; i < tries && (counts["removed"] < enough || counts["changed"] == 0); i++ {
			f, err := j.Look(context.Background(), d, "s", dir+"/s", Socket)
			if err != nil {
				counts["look: "+errno(err)]++
				continue
			}
			counts["look: "+f.Verdict.String()]++
			if f.Verdict != Stale {
				continue
			}
			err = f.Remove(context.Background())
			switch {
			case err == nil:
				counts["removed"]++
			case errors.Is(err, ErrChanged):
				counts["changed"]++
			default:
				counts["remove: "+errno(err)]++
			}
		}
		in.Write([]byte("x"))
		must(t, cmd.Wait())
		var swaps, boxes int
		fmt.Sscan(out.String(), &swaps, &boxes)
		t.Logf("%d exchanges (%d of our boxes): %v", swaps, boxes, counts)
		// Under these profiles the attacker has no renameat2(2) either.
		denied := strings.HasPrefix(string(seccomptest.Current()), "old")
		if !denied && (swaps < 100 || counts["removed"] == 0 || counts["changed"] == 0) {
			t.Error("the attack was none")
		}
		for _, h := range all {
			var st syscall.Stat_t
			must(t, linux.Fstatat(h.fd, "", linux.AT_EMPTY_PATH, &st))
			if st.Nlink == 0 {
				t.Errorf("%s is gone", h.name)
			}
			if st.Mode&syscall.S_IFMT == syscall.S_IFSOCK && strings.HasPrefix(h.name, dir) {
				if bound, err := sockdiag.Probe(h.fd); !bound {
					t.Errorf("%s is not live any more: %v", h.name, err)
				}
			}
		}
		// And by name: every live socket has one where its owner can find it.
		found := map[uint64]bool{}
		list, err := os.ReadDir(dir)
		must(t, err)
		boxed := 0
		for _, e := range list {
			path := dir + "/" + e.Name()
			var st syscall.Stat_t
			must(t, syscall.Lstat(path, &st))
			found[st.Ino] = true
			if e.IsDir() && st.Uid == 0 && st.Mode&0o777 == 0o700 && strings.HasPrefix(e.Name(), fsat.TempPrefix) {
				if inner, _ := os.ReadDir(path); len(inner) > 0 {
					boxed++
				}
			}
		}
		if boxed > 0 {
			t.Errorf("%d boxes of ours hold something", boxed)
		}
		for _, h := range all[:live] {
			var st syscall.Stat_t
			must(t, linux.Fstatat(h.fd, "", linux.AT_EMPTY_PATH, &st))
			if !found[st.Ino] {
				t.Errorf("%s has no name in the directory", h.name)
			}
		}
	})
}

func errno(err error) string {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e.Error()
	}
	return err.Error()
}
