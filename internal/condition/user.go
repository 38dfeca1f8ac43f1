package condition

import (
	"errors"
	"strconv"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/accounts"
	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/linux"
)

// nameService is the longest time between two questions for a user who is unknown:
// each may start a program.
const nameService = 8 * time.Second

// user looks whether the user called name has a runtime directory, as the XDG Base
// Directory Specification wants it: owned by the user, mode 0700.
func (l *look) user(name string) {
	id, err := accounts.ParseID(name)
	if err != nil {
		l.walk("/etc/passwd", true, 0).close() // first: a user who is added there is an event
		id, err = l.lookUp(name)
	}
	if err != nil {
		l.found(false, poll, "%v", err)
		l.f.most = nameService
		return
	}
	path := l.o.UserDir + "/" + strconv.FormatUint(uint64(id), 10)
	s := l.walk(path, true, linux.IN_ATTRIB)
	defer s.close()
	switch perm := s.st.Mode & 0o7777; {
	case s.fd < 0:
		l.found(false, told, "%s", s.why)
	case s.st.Mode&syscall.S_IFMT != syscall.S_IFDIR:
		l.found(false, told, "%s is no directory", path)
	case s.st.Uid != id:
		l.found(false, told, "%s belongs to user %d, not %d", path, s.st.Uid, id)
	case perm != 0o700:
		l.found(false, told, "%s has mode %04o, not 0700", path, perm)
	default:
		l.found(true, told, "%s is there", path)
	}
}

// lookUp asks the user database.
func (l *look) lookUp(name string) (uint32, error) {
	root, err := inroot.Open("")
	if err != nil {
		return 0, err
	}
	defer root.Close()
	var uid uint32
	err = l.ask(func() (err error) {
		uid, _, _, _, err = accounts.System(root, l.o.Getent).User(name)
		return err
	})
	if errors.Is(err, accounts.ErrUnknown) {
		err = errors.New("there is no user of that name")
	}
	return uid, err
}
