package stale

import (
	"errors"
	"fmt"
	"time"

	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// clock relates the times of files (CLOCK_REALTIME, which can be set) to those of
// processes (CLOCK_BOOTTIME, which cannot).
type clock struct {
	now    int64 // CLOCK_REALTIME
	offset int64 // REALTIME - BOOTTIME, now
	// began is when the PID namespace's init started, by the clock of now: never
	// later than it was, by up to a tick.
	began int64
	// why says why no file can be called older than this run, nil where it can.
	why error
}

// A tick is the unit of start times in /proc: USER_HZ is 100 on every
// architecture of ours, proc_pid_stat(5).
const tick = int64(10 * time.Millisecond)

// coarse is how much earlier than now a file's time may be that was made now: the
// kernel takes it from a clock that moves once a jiffy, 10 ms at most.
const coarse = 2 * tick

// mountedWithin is how long after its first process a PID namespace gets its
// procfs in a container: runtimes mount it before they start the user's program.
const mountedWithin = int64(5 * time.Second)

// readClock finds out how file times and start times relate. The procfs of a PID
// namespace is the witness that the clock was not set since this run began: its
// root inode is made, and takes the time of then, when the first procfs of this
// namespace is mounted, which a container runtime does before it starts anything
// of the user's. If the clock was set forward after that, the procfs seems to be
// older than the namespace's first process.
func (j *Judge) readClock() (c clock) {
	if c.now, c.offset, c.why = j.clocks(); c.why != nil {
		return c
	}
	if c.why = j.runErr; c.why != nil {
		return c
	}
	if j.restored {
		c.why = errRestored
		return c
	}
	c.began = int64(j.run.InitStart)*tick + c.offset
	if c.why = j.proc.OwnNumbers(); c.why != nil {
		return c
	}
	mounted, err := j.proc.Mounted()
	switch {
	case err != nil:
		c.why = err
	case mounted < c.began-coarse:
		c.why = fmt.Errorf("the clock was set forward since: /proc seems to be older than process 1, by %v", time.Duration(c.began-mounted))
	case mounted > c.began+mountedWithin:
		c.why = fmt.Errorf("/proc was mounted %v after process 1 started, or the clock was set back: nothing shows what the clock was when this run began",
			time.Duration(mounted-c.began).Round(time.Second))
	}
	return c
}

// A process that was restored from a checkpoint has started when it was restored,
// and files of its own are older.
var errRestored = errors.New("this is a time namespace, as where a container was restored from a checkpoint: start times do not tell how old a process is")

// clocks reads both clocks. A preemption between the two reads makes the offset
// too small, so the largest of some is the best.
func (j *Judge) clocks() (now, offset int64, err error) {
	for i := range 3 {
		r, b, err := j.proc.Clocks()
		if err != nil {
			return 0, 0, err
		}
		if i == 0 || r-b > offset {
			offset = r - b
		}
		now = r
	}
	return now, offset, nil
}

// before returns nil if the inode is proven to be older than this run: untouched
// since before the PID namespace's first process started. See readClock.
func (j *Judge) before(o *object) error { return j.older(o, o.written()) }

// older returns nil if the time w of an inode's is before this run.
func (j *Judge) older(o *object, w int64) error {
	if err := o.ground.timed(); err != nil {
		return err
	}
	c := j.readClock()
	switch {
	case c.why != nil:
		return c.why
	case w > c.now:
		return fmt.Errorf("its time is %v ahead of the clock", time.Duration(w-c.now))
	case w >= c.began-coarse:
		return fmt.Errorf("it was changed %v after this run began", time.Duration(w-c.began).Round(time.Millisecond))
	}
	return nil
}

// timed returns nil if the times of files on the ground are those of our clock, to
// a second at worst. FAT counts two seconds, in some time zone; a server has a clock
// of its own.
func (g *ground) timed() error {
	switch {
	case g.mount == nil || !mounts.Local(g.mount.FSType):
		return errors.New("its times may be of another machine's clock")
	case coarseTypes.has(g.mount.FSType):
		return fmt.Errorf("the times of %s are too coarse", g.mount.FSType)
	}
	return nil
}

// coarseTypes are local file systems whose times are not to a second, or that keep
// none.
var coarseTypes = names{"vfat", "msdos", "exfat", "ntfs3", "iso9660", "squashfs", "erofs"}

// startMargin is by how much a process must be younger than a file to be another
// one than wrote it, and stepTolerance how much the clock's offset may differ
// from the stamp's, which two readings of it do.
const (
	startMargin   = int64(time.Second) + stepTolerance
	stepTolerance = int64(100 * time.Millisecond)
)

// younger reports whether a process that started at that many ticks after the
// boot is younger than the file by a margin, as the clock of now has it, and if
// so, why that is no proof, nil where it is.
//
// The comparison is wrong only if the clock was set forward after the file was
// written. The stamp shows that it was not set since the stamp was made; and a
// process that is younger than the stamp cannot have written a file before it.
func (j *Judge) younger(start uint64, o *object) (bool, error) {
	if err := o.ground.timed(); err != nil {
		return false, err
	}
	now, offset, err := j.clocks()
	if err != nil {
		return false, err
	}
	w := o.written()
	started := int64(start)*tick + offset
	if w > now {
		return false, fmt.Errorf("its time is %v ahead of the clock", time.Duration(w-now))
	}
	if started <= w+startMargin {
		return false, nil
	}
	s := j.opts.Stamp
	switch {
	case j.restored:
		return true, errRestored
	case s == nil:
		return true, fmt.Errorf("there is no boot stamp to show that the clock was not set")
	case j.runErr != nil:
		return true, j.runErr
	case !s.SameRun(process.Identity{BootID: j.run.BootID, InitStart: j.run.InitStart}):
		return true, fmt.Errorf("the boot stamp is of another run")
	case offset-s.Offset > stepTolerance, s.Offset-offset > stepTolerance:
		return true, fmt.Errorf("the clock was set by %v since the boot stamp was made", time.Duration(offset-s.Offset).Round(time.Millisecond))
	case started <= s.Made+startMargin:
		return true, fmt.Errorf("the process is older than the boot stamp, before which the clock may have been set")
	}
	return true, nil
}
