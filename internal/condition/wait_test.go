package condition

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
	"github.com/slashrun/slashrun/pidfile"
)

func TestAnyAndTimeout(t *testing.T) {
	d := t.TempDir()
	if r := begin(t, forever(Options{Any: true}), "path:"+d+"/none", "path:"+d).holds(); r.Conditions[0].Holds || !r.Conditions[1].Holds {
		t.Errorf("%+v", r)
	}
	r := begin(t, Options{Timeout: time.Millisecond}, "path:"+d+"/none", "path:"+d)
	<-r.done
	if r.err != nil || r.report.Met || !r.report.TimedOut || r.report.Conditions[0].Holds || r.report.Elapsed < time.Millisecond {
		t.Errorf("%+v, %v", r.report, r.err)
	}
	r = begin(t, forever(Options{}), "path:"+d+"/none")
	r.idle()
	r.cancel()
	<-r.done
	if !errors.Is(r.err, context.Canceled) || r.report.Met {
		t.Errorf("%+v, %v", r.report, r.err)
	}
	if _, err := Wait(context.Background(), nil, Options{}); err == nil {
		t.Error("waited for nothing")
	}
}

// What held first, and does not when the last one comes, is waited for again.
func TestAllAtOneTime(t *testing.T) {
	d := t.TempDir()
	fd := socket(t, d+"/s", syscall.SOCK_STREAM)
	must(t, syscall.Listen(fd, 1))
	mkdirs(t, d+"/first")
	var told []string
	o := forever(Options{Changed: func(r Result, _ time.Duration) {
		verb := " ends"
		if r.Holds {
			verb = " holds"
		}
		told = append(told, strings.TrimPrefix(r.Condition, "path:"+d+"/")+verb)
	}})
	r := begin(t, o, "path:"+d+"/first", "path:"+d+"/second", "listen:"+d+"/s")
	r.idle()
	must(t, syscall.Shutdown(fd, syscall.SHUT_RD)) // it listens no more, and nothing tells
	must(t, os.Remove(d+"/first"))
	r.idle()
	mkdirs(t, d+"/second")
	r.idle()
	mkdirs(t, d+"/first")
	r.polls(4)
	must(t, os.Remove(d+"/s"))
	must(t, syscall.Listen(socket(t, d+"/s", syscall.SOCK_STREAM), 1))
	r.holds()
	if got := strings.ReplaceAll(strings.Join(told, ", "), "listen:"+d+"/s", "s"); got != "first holds, s holds, first ends, second holds, first holds, s ends, s holds" {
		t.Error(got)
	}
}

// A hundred conditions and one loop, which sleeps without an end: nothing is polled.
func TestHundred(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) { // where nobody else makes files or mounts
		d := t.TempDir()
		var texts []string
		for i := range 25 {
			name := d + "/" + itoa(i)
			mkdirs(t, name)
			orphan(t, name+".orphan")
			texts = append(texts, "gone:"+name, "listen:"+name+"/s", "pidfile:"+name+"/app.pid", "connect:"+name+".orphan")
		}
		gone := make(chan Result, 1)
		r := begin(t, forever(Options{Changed: func(c Result, _ time.Duration) { gone <- c }}), texts...)
		r.idle()
		before := r.turns()
		must(t, os.Mkdir(d+"/somebody-else", 0o755)) // is an event, and concerns none
		must(t, os.WriteFile(d+"/0/x", nil, 0o644))
		must(t, os.Remove(d+"/0/x"))
		must(t, os.Remove(d+"/0"))
		if c := <-gone; c.Condition != texts[0] {
			t.Errorf("%+v", c)
		}
		r.cancel()
		<-r.done
		if n := r.turns() - before; n > 20 {
			t.Errorf("turned %d times", n)
		}
		for i, c := range r.report.Conditions {
			if want := i == 0; c.Holds != want || c.Polled != "" || i > 3 && c.Why == "" {
				t.Errorf("%+v", c)
			}
		}
	})
}

// One condition's look is no event for another, nor for itself: a PID file is opened
// and closed to be read, and a lock's file is watched for being closed.
func TestLooksAreNoEvents(t *testing.T) {
	testenv.Need(t, initial)
	path := t.TempDir() + "/food.pid"
	dead := sleeper(t)
	must(t, pidfile.WriteFor(path, dead.Process.Pid))
	dead.Process.Kill()
	dead.Wait()
	r := begin(t, forever(Options{}), "pidfile:"+path, "lock:"+path, "path:"+path, "gone:"+path+"/x")
	r.idle()
	fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_RDONLY, 0)
	must(t, err)
	linux.Close(fd) // an event for the lock alone, whose look causes none
	r.idle()        // which it never would be, if each look caused another
}

// The loop goes on, and its timeout comes, while a file system does not answer: a
// FUSE server that has taken the connection and never says a word.
func TestHangingFileSystem(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Requirement{What: "FUSE", Check: func() error {
		text, err := os.ReadFile("/proc/filesystems")
		if err == nil && !strings.Contains(string(text), "\tfuse\n") {
			err = errors.New("/proc/filesystems does not list it")
		}
		return err
	}})
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		mkdirs(t, "/run/hung")
		must(t, syscall.Mknod("/dev/fuse", syscall.S_IFCHR|0o600, int(linux.Makedev(10, 229))))
		fd, err := linux.Openat(linux.AT_FDCWD, "/dev/fuse", linux.O_RDWR, 0)
		must(t, err)
		var silence sync.Once
		end := func() { silence.Do(func() { linux.Close(fd) }) } // the kernel answers for it then
		defer end()
		must(t, syscall.Mount("hung", "/run/hung", "fuse", 0, "fd="+itoa(fd)+",rootmode=40000,user_id=0,group_id=0"))
		defer syscall.Unmount("/run/hung", syscall.MNT_DETACH)

		r := begin(t, forever(Options{Any: true}), "path:/run/hung/a", "listen:/run/hung/b", "pidfile:/run/hung/c", "path:/run/x")
		r.idle() // each of the three hangs by itself
		mkdirs(t, "/run/x")
		if got := r.holds(); !strings.Contains(got.Conditions[1].Why, "a file system hangs") || !got.Conditions[3].Holds {
			t.Errorf("%+v", got)
		}
		r = begin(t, Options{Timeout: 2 * time.Second}, "path:/run/hung/a", "path:/run/x", "gone:/run/x")
		<-r.done
		if r.err != nil || !r.report.TimedOut || !r.report.Conditions[1].Holds || r.report.Conditions[2].Looks != 1 {
			t.Errorf("%+v, %v", r.report, r.err)
		}
		// It ends, and the look that hung goes on.
		r = begin(t, forever(Options{}), "path:/run/hung")
		r.idle()
		end()
		must(t, syscall.Unmount("/run/hung", syscall.MNT_DETACH))
		r.holds()
	})
}

// With any number of descriptors left it works, or says that there are none, and
// leaves none open.
func TestNoDescriptors(t *testing.T) {
	cmd := start(t, "SLASHRUN_TEST_ROLE=few", "SLASHRUN_TEST_FILE="+t.TempDir())
	if got := cmd.out.Text(); got != "enough" {
		t.Error(got)
	}
}

// Where no event comes, what an earlier run left behind is looked at again and again:
// somebody may come who makes it anew.
func TestLeftoverWithoutInotify(t *testing.T) {
	testenv.Need(t, testenv.NonRoot)
	d := t.TempDir() + "/unwatched"
	mkdirs(t, d)
	must(t, os.Chmod(d, 0o300)) // which inotify refuses
	t.Cleanup(func() { os.Chmod(d, 0o700) })
	orphan(t, d+"/s")
	r := begin(t, forever(Options{Any: true}), "connect:"+d+"/s", "path:"+d+"/never")
	r.polls(15) // past the longest pace
	must(t, os.Remove(d+"/s"))
	must(t, syscall.Listen(socket(t, d+"/s", syscall.SOCK_STREAM), 5))
	r.holds()
}
