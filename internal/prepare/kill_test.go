package prepare

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/runfs"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// childEnv makes the test binary a process that makes the root ready which it
// names, and nothing else.
const childEnv = "PREPARE_TEST_CHILD"

func child(root string) int {
	syscall.Umask(0)
	d, err := fsat.OpenDir(root)
	if err == nil {
		_, err = Run(context.Background(), Options{Root: d, RootPath: root, Name: "run", Profile: runfs.Debian, Early: true, Late: true})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// acts are the system calls that change something.
const acts = "/^(fsopen|fsconfig|fsmount|open_tree|move_mount|mount_setattr|mount|umount2|mkdirat|linkat|symlinkat|renameat|renameat2|unlinkat|fchownat|fchmod.*|write)$"

// SIGKILL after every system call that acts: what is seen afterwards is nothing
// or all of it, and running again finishes, leaves no staging behind and loses
// nothing.
func TestKilledAtEveryAct(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) { testenv.Need(t, testenv.Tool("strace")) })
	for _, adopt := range []bool{false, true} {
		for _, p := range []seccomptest.Profile{seccomptest.None, seccomptest.OldEPERM} {
			t.Run(fmt.Sprintf("adopt=%v %s", adopt, p), func(t *testing.T) {
				nstest.Run(t, nstest.Options{}, func(t *testing.T) {
					seccomptest.Run(t, p, func(t *testing.T) {
						kills := 0
						for killOnce(t, kills+1, adopt) {
							kills++
						}
						if kills < 15 {
							t.Errorf("%d kills: the list of calls fits no more", kills)
						}
						t.Logf("%d kills", kills)
					})
				})
			})
		}
	}
}

// killOnce runs the child and kills it after its nth act; false if it made fewer.
func killOnce(t *testing.T, n int, adopt bool) bool {
	t.Helper()
	root := newRoot(t)
	run := root + "/run"
	must(t, os.Mkdir(root+"/var/run", 0o755))
	must(t, os.Mkdir(root+"/dev", 0o755)) // for the legacy way
	must(t, os.WriteFile(root+"/var/run/kept", nil, 0o600))
	if adopt {
		must(t, syscall.Mount("none", run, "tmpfs", 0, ""))
		must(t, os.WriteFile(run+"/kept", nil, 0o600))
	}
	before := countMounts(t)
	killed, call := killAfter(t, n, childEnv+"="+root)
	what := fmt.Sprintf("killed after act %d, %s", n, call)
	if !adopt {
		if list := seen(t, run); len(list) != 0 {
			if !slices.Equal(list, []string{"lock", "slashrun", "user"}) {
				t.Errorf("%s: half-made: %q", what, list)
			}
			checkRun(t, run)
		}
	}
	checkVar(t, root, what)
	o := options(t, root)
	o.Late = true
	if res := mustRun(t, o); res.Kept() && !withoutExchange() {
		t.Errorf("%s: the run after: %v", what, res.Notes)
	}
	checkRun(t, run)
	checkVar(t, root, what)
	if got := countMounts(t) - before; got != map[bool]int{true: 2, false: 3}[adopt] {
		t.Errorf("%s: %d mounts more after the run after", what, got)
	}
	if _, err := os.Stat(run + "/kept"); adopt && err != nil {
		t.Errorf("%s: content of the adopted tmpfs: %v", what, err)
	}
	must(t, syscall.Unmount(run, syscall.MNT_DETACH))
	if list := append(names(t, run), names(t, root+"/dev")...); len(list) != 0 {
		t.Errorf("%s: left: %q", what, list)
	}
	return killed
}

// killAfter runs the child under strace, which holds it for a moment after each
// act and names it on a pipe, and kills it when the nth is named. (strace's own
// inject=...:signal=KILL counts for each thread, and much here is done on threads
// that live for one call.) A kill that comes late hits a later act, which is as
// good.
func killAfter(t *testing.T, n int, env string) (killed bool, call string) {
	t.Helper()
	strace, err := testenv.LookTool("strace")
	must(t, err)
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	cmd := exec.Command(strace, "-f", "-qq", "-o", "/proc/self/fd/3", "-e", "trace="+acts, "-e", "inject="+acts+":delay_exit=2000", os.Args[0])
	cmd.Env = append(os.Environ(), env)
	cmd.ExtraFiles = []*os.File{w}
	var out strings.Builder
	cmd.Stderr = &out
	must(t, cmd.Start())
	w.Close()
	seen := 0
	for sc := bufio.NewScanner(r); sc.Scan(); {
		line := sc.Text()
		if strings.Contains(line, "<unfinished") || strings.Contains(line, "+++") || strings.Contains(line, "---") {
			continue
		}
		if seen++; seen == n {
			_, call, _ = strings.Cut(line, " ") // behind the id of a thread that may be gone by now
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
			must(t, err)
			pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil {
				continue // it has ended by itself
			}
			killed = syscall.Kill(pid, syscall.SIGKILL) == nil
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || !exit.Sys().(syscall.WaitStatus).Signaled()) {
		t.Fatalf("act %d: %v\n%s", n, err, out.String())
	}
	return killed, call
}

// withoutExchange says that the profile of now denies renameat2 with flags, so
// that a directory at /var/run has to stay.
func withoutExchange() bool { return strings.HasPrefix(string(seccomptest.Current()), "old-") }

// checkVar: /var/run is the directory with its content, or the link, and the
// content is somewhere in any case.
func checkVar(t *testing.T, root, what string) {
	t.Helper()
	st, err := os.Lstat(root + "/var/run")
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	where := root + "/var/run/kept"
	if st.Mode()&os.ModeSymlink != 0 {
		where = root + "/var/run.slashrun-old/kept"
	}
	if _, err := os.Lstat(where); err != nil {
		t.Errorf("%s: the content of /var/run is lost: %v", what, err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	list, err := f.Readdirnames(-1)
	must(t, err)
	slices.Sort(list)
	return list
}

// seen is what is in a directory, without the legacy way's staging directory.
func seen(t *testing.T, dir string) []string {
	return slices.DeleteFunc(names(t, dir), func(n string) bool { return n == mounts.StagingName })
}

// An observer that looks all the time finds the old directory or a finished /run,
// never anything between.
func TestAnObserverNeverSeesItHalfMade(t *testing.T) {
	for _, p := range []seccomptest.Profile{seccomptest.None, seccomptest.EPERM} {
		t.Run(string(p), func(t *testing.T) {
			nstest.Run(t, nstest.Options{}, func(t *testing.T) {
				seccomptest.Run(t, p, observe)
			})
		})
	}
}

func observe(t *testing.T) {
	root := newRoot(t)
	run := root + "/run"
	var stop atomic.Bool
	var looks, finished int
	var wg sync.WaitGroup
	ready := make(chan struct{})
	wg.Go(func() {
		for first := true; !stop.Load(); looks++ {
			fd, err := syscall.Open(run, syscall.O_DIRECTORY|syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
			if err != nil {
				t.Errorf("it was gone: %v", err)
				return
			}
			d := os.NewFile(uintptr(fd), run)
			list, _ := d.Readdirnames(-1)
			list = slices.DeleteFunc(list, func(n string) bool { return n == mounts.StagingName })
			slices.Sort(list)
			switch {
			case len(list) == 0:
			case !slices.Equal(list, []string{"lock", "slashrun", "user"}):
				t.Errorf("half-made: %q", list)
			default:
				finished++
				// Through the descriptor, so that it is this one even if it is gone by now.
				b, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/slashrun/boot", fd))
				if err != nil && !errors.Is(err, syscall.ENOENT) || err == nil && len(b) < 50 {
					t.Errorf("the stamp: %q %v", b, err)
				}
			}
			d.Close()
			if first {
				close(ready)
				first = false
			}
			runtime.Gosched()
		}
	})
	<-ready
	for range 30 {
		// The observer's own descriptors would count as holders if it were another
		// process; it is a part of this one.
		mustRun(t, options(t, root))
		checkRun(t, run)
		must(t, syscall.Unmount(run, syscall.MNT_DETACH))
	}
	stop.Store(true)
	wg.Wait()
	if looks < 100 || finished == 0 {
		t.Errorf("the observer looked %d times and saw it finished %d times", looks, finished)
	}
}
