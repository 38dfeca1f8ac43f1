package condition

import (
	"context"
	"errors"
	"os"
	"os/exec"
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

// A file system that may not answer is not asked: here a FUSE server that has taken
// the connection and never says a word.
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

		must(t, os.Symlink("/run/hung/x", "/run/link"))
		for _, text := range []string{"path:/run/hung", "path:/run/hung/a", "gone:/run/hung/a", "listen:/run/hung/b", "connect:/run/hung/b", "lock:/run/hung/c", "pidfile:/run/hung/c", "path:/run/link", "path:/run/hung/../x"} {
			r := begin(t, forever(Options{}), text, "path:/run/never")
			<-r.done
			if r.err != nil || !r.report.Never || !strings.Contains(r.report.Conditions[0].Why, "lies on a fuse, mounted on /run/hung: ") {
				t.Errorf("%+v, %v", r.report, r.err)
			}
		}
		r := begin(t, forever(Options{Any: true}), "path:/run/hung/a", "path:/run/x")
		r.idle()
		mkdirs(t, "/run/x")
		r.holds()
		// Once it is unmounted there is an answer.
		r = begin(t, forever(Options{Any: true}), "gone:/run/hung/a", "path:/run/y")
		r.idle()
		must(t, syscall.Unmount("/run/hung", syscall.MNT_DETACH))
		r.holds()
	})
}

// What is below an automount that nobody has mounted is neither there nor gone, and
// is not mounted by who waits.
func TestAutomount(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Requirement{What: "autofs in the kernel", Check: func() error {
		text, err := os.ReadFile("/proc/filesystems")
		if err == nil && !strings.Contains(string(text), "\tautofs\n") {
			err = errors.New("/proc/filesystems does not list it")
		}
		return err
	}})
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		mkdirs(t, "/run/auto")
		packets, w, err := os.Pipe()
		must(t, err)
		defer packets.Close()
		daemon := exec.Command("sleep", "600") // its process group alone may look inside without a question
		daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		must(t, daemon.Start())
		defer daemon.Wait()
		defer daemon.Process.Kill()
		must(t, syscall.Mount("auto", "/run/auto", "autofs", 0, "fd="+itoa(int(w.Fd()))+",pgrp="+itoa(daemon.Process.Pid)+",minproto=5,maxproto=5,direct"))
		w.Close()
		defer syscall.Unmount("/run/auto", syscall.MNT_DETACH)
		for _, text := range []string{"path:/run/auto/x", "gone:/run/auto/x", "lock:/run/auto/x", "listen:/run/auto/x", "pidfile:/run/auto/x"} {
			says(t, text, false, "/run/auto is an automount on which nothing is mounted yet")
		}
		r := begin(t, forever(Options{}), "path:/run/auto/x", "gone:/run/auto/y")
		r.polls(3)
		must(t, packets.SetReadDeadline(time.Now()))
		if n, err := packets.Read(make([]byte, 512)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("it was asked to be mounted: %d, %v", n, err)
		}
		must(t, syscall.Unmount("/run/auto", syscall.MNT_DETACH))
		mkdirs(t, "/run/auto/x")
		r.holds()
	})
}

// A link that the kernel refuses to follow leads nowhere: nothing is there, and
// nothing is gone.
func TestRefusedLinks(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		const nosymfollow = 256 // MS_NOSYMFOLLOW of linux/mount.h, Linux 5.10
		mkdirs(t, "/run/m")
		must(t, syscall.Mount("none", "/run/m", "tmpfs", nosymfollow, ""))
		defer syscall.Unmount("/run/m", syscall.MNT_DETACH)
		fd := socket(t, "/run/s", syscall.SOCK_STREAM)
		must(t, syscall.Listen(fd, 5))
		must(t, syscall.SetNonblock(fd, true))
		must(t, os.Symlink("/run/s", "/run/m/link"))
		if _, err := os.Stat("/run/m/link"); !errors.Is(err, syscall.ELOOP) {
			t.Skip("this kernel has no nosymfollow: ", err)
		}
		for _, kind := range []string{"path", "listen", "connect", "lock"} {
			says(t, kind+":/run/m/link", false, "the kernel does not follow /run/m/link to its end")
		}
		says(t, "gone:/run/m/link/x", false, "")
		if _, _, err := syscall.Accept(fd); err != syscall.EAGAIN {
			t.Error("somebody connected")
		}
		must(t, os.WriteFile("/run/file", nil, 0o644))
		says(t, "path:/run/file/.", false, "")
		says(t, "gone:/run/file/.", true, "")
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
