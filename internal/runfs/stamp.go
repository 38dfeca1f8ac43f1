package runfs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
)

// stampName is the boot stamp, in the directory of ours below /run.
const (
	ownDir    = "slashrun"
	stampName = "boot"
)

// Stamp is /run/slashrun/boot: which run of the machine or container this /run
// was made in. It is never changed while that run lasts, so a reader may compare
// Offset with the clocks of now to learn whether the clock was set since.
//
// The file has one KEY=value a line. Unknown keys are for later versions and
// are skipped.
type Stamp struct {
	process.Identity
	// Survived is the boot id and init start, joined by ':', of the run whose
	// content was found here and kept; empty for a /run that began empty. Nothing
	// that is older than this stamp is proof of anything then.
	Survived string `json:"survived,omitempty"`
}

// ErrStamp means that a stamp is there and cannot be understood.
var ErrStamp = errors.New("not a boot stamp")

// ReadStamp parses a stamp. It fails with ErrStamp for anything that does not
// hold the whole identity.
func ReadStamp(r io.Reader) (Stamp, error) {
	var s Stamp
	seen := map[string]bool{}
	sc := bufio.NewScanner(io.LimitReader(r, 4096))
	for sc.Scan() {
		k, v, ok := strings.Cut(sc.Text(), "=")
		if !ok || seen[k] {
			return Stamp{}, fmt.Errorf("%w: line %q", ErrStamp, sc.Text())
		}
		seen[k] = true
		var err error
		switch k {
		case "boot_id":
			s.BootID = v
		case "init_start_ticks":
			s.InitStart, err = strconv.ParseUint(v, 10, 64)
		case "realtime_minus_boottime_ns":
			s.Offset, err = strconv.ParseInt(v, 10, 64)
		case "survived":
			s.Survived = v
		}
		if err != nil {
			return Stamp{}, fmt.Errorf("%w: %s is not a number", ErrStamp, k)
		}
	}
	if err := sc.Err(); err != nil {
		return Stamp{}, fmt.Errorf("%w: %v", ErrStamp, err)
	}
	if s.BootID == "" || !seen["init_start_ticks"] || !seen["realtime_minus_boottime_ns"] {
		return Stamp{}, fmt.Errorf("%w: a key is missing", ErrStamp)
	}
	return s, nil
}

// Text is the content of the file.
func (s Stamp) Text() string {
	t := fmt.Sprintf("boot_id=%s\ninit_start_ticks=%d\nrealtime_minus_boottime_ns=%d\n", s.BootID, s.InitStart, s.Offset)
	if s.Survived != "" {
		t += "survived=" + s.Survived + "\n"
	}
	return t
}

// readStamp reads the stamp below run, and when it was written, in nanoseconds
// since the epoch; nil where there is none, or trusted says of the file and of the
// directory that it lies in that it is not to be read. A nil trusted trusts all.
func readStamp(run *fsat.Dir, trusted func(own *fsat.Dir, file *fsat.Stat) (bool, error)) (stamp *Stamp, made int64, err error) {
	own, err := run.OpenDir(ownDir)
	if err != nil {
		if fsat.NotExist(err) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
			return nil, 0, nil
		}
		return nil, 0, err
	}
	defer own.Close()
	fd, err := linux.Openat(own.Fd(), stampName, linux.O_RDONLY|linux.O_NOFOLLOW|linux.O_NONBLOCK|linux.O_NOCTTY, 0)
	if fsat.NotExist(err) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer linux.Close(fd)
	var file fsat.Stat
	if err := fsat.StatAt(fd, "", &file); err != nil {
		return nil, 0, err
	}
	if trusted != nil {
		if ok, err := trusted(own, &file); err != nil || !ok {
			return nil, 0, err
		}
	}
	s, err := ReadStamp(fdReader(fd))
	if err != nil {
		return nil, 0, err
	}
	return &s, file.Mtime, nil
}

// FindStamp reads the boot stamp below run, and when it was written, in
// nanoseconds since the epoch; nil where there is none, or none that root alone
// can have written.
func FindStamp(run *fsat.Dir) (*Stamp, int64, error) {
	return readStamp(run, func(own *fsat.Dir, file *fsat.Stat) (bool, error) {
		for _, d := range []*fsat.Dir{run, own} {
			var st fsat.Stat
			if err := d.Stat("", &st); err != nil || !byRoot(&st) {
				return false, err
			}
		}
		return byRoot(file), nil
	})
}

// byRoot reports whether root alone may write to it.
func byRoot(st *fsat.Stat) bool { return st.UID == 0 && st.Perm()&0o022 == 0 }

type fdReader int

func (fd fdReader) Read(b []byte) (int, error) {
	n, err := linux.Read(int(fd), b)
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return max(n, 0), err
}

// writeStamp puts the stamp in the place of whatever is there, in one rename(2):
// a reader finds the old one, the new one, never a part.
func writeStamp(own *fsat.Dir, s Stamp) error {
	attr := fsat.Attr{Mode: 0o644}
	var st fsat.Stat
	if fsat.NotExist(own.Stat(stampName, &st)) { // else a file would be made for nothing
		err := own.WriteFile(stampName, []byte(s.Text()), attr)
		if !errors.Is(err, syscall.EEXIST) {
			return err
		}
	}
	tmp := fsat.TempName()
	if err := own.WriteFile(tmp, []byte(s.Text()), attr); err != nil {
		return err
	}
	if err := linux.Renameat2(own.Fd(), tmp, own.Fd(), stampName, 0); err != nil {
		own.Unlink(tmp)
		return err
	}
	return nil
}
