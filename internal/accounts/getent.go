package accounts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxAnswer bounds what is kept of an answer: one line of passwd or group.
const maxAnswer = 1 << 20

// getent runs getent(1), one question at a time.
type getent struct {
	Getent
	mu    sync.Mutex
	kept  map[[2]string]answer
	given error // why it is not asked any more
}

type answer struct {
	text []byte
	err  error
}

// askUser asks for a user by name or number.
func (s *Source) askUser(key string) (User, error) {
	text, err := s.getent.ask("passwd", key)
	if err != nil {
		return User{}, err
	}
	u, ok := User{}, false
	ParseUsers(bytes.NewReader(text), func(got User) bool { u, ok = got, true; return false })
	switch {
	case !ok || compat(u.Name):
		return User{}, fmt.Errorf("getent passwd %s: answer is no line of passwd(5): %q", key, firstLine(text))
	case !s.valid(u.UID):
		return User{}, fmt.Errorf("getent passwd %s: number %d: %w", key, u.UID, ErrInvalidID)
	}
	return u, nil
}

// askGroup asks for a group by name or number.
func (s *Source) askGroup(key string) (Group, error) {
	text, err := s.getent.ask("group", key)
	if err != nil {
		return Group{}, err
	}
	g, ok := Group{}, false
	ParseGroups(bytes.NewReader(text), func(got Group) bool { g, ok = got, true; return false })
	switch {
	case !ok || compat(g.Name):
		return Group{}, fmt.Errorf("getent group %s: answer is no line of group(5): %q", key, firstLine(text))
	case !s.valid(g.GID):
		return Group{}, fmt.Errorf("getent group %s: number %d: %w", key, g.GID, ErrInvalidID)
	}
	return g, nil
}

// ask returns what getent prints for key in the database, or ErrUnknown.
func (g *getent) ask(database, key string) ([]byte, error) {
	if g.Never != nil {
		g.Never()
		return nil, ErrUnknown
	}
	// A key with a dash in front would be an option.
	if len(g.Paths) == 0 || strings.HasPrefix(key, "-") {
		return nil, ErrUnknown
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.given != nil {
		return nil, g.given
	}
	if a, ok := g.kept[[2]string{database, key}]; ok {
		return a.text, a.err
	}
	text, err := g.run(database, key)
	if g.kept == nil {
		g.kept = make(map[[2]string]answer)
	}
	g.kept[[2]string{database, key}] = answer{text, err}
	return text, err
}

// run asks, and remembers in g.given where asking again is of no use.
func (g *getent) run(database, key string) ([]byte, error) {
	path := ""
	for _, p := range g.Paths {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			path = p
			break
		}
	}
	if path == "" {
		g.given = ErrUnknown
		return nil, ErrUnknown
	}
	parent := g.Context
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, g.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, database, key)
	out, errOut := limited{max: maxAnswer}, limited{max: 4096}
	cmd.Stdout, cmd.Stderr = &out, &errOut
	// A group of its own, so that helpers of a name service that hang go with it,
	// and no waiting for those that moved away and hold the pipe.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case parent.Err() != nil:
		return nil, parent.Err()
	case ctx.Err() != nil:
		g.given = fmt.Errorf("%s %s %s: no answer after %v; the name service (nsswitch.conf(5)) hangs, and is not asked again", path, database, key, g.Timeout)
		return nil, g.given
	case err == nil:
		return out.b, nil
	case errors.As(err, &exit) && exit.ExitCode() == 2:
		return nil, ErrUnknown // getent(1): the key could not be found
	}
	text := firstLine(errOut.b)
	if text != "" {
		text = ": " + text
	}
	return nil, fmt.Errorf("%s %s %s: %w%s", path, database, key, err, text)
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(b), []byte("\n"))
	return string(line[:min(len(line), 200)])
}

// limited keeps the first bytes that are written to it.
type limited struct {
	b   []byte
	max int
}

func (l *limited) Write(p []byte) (int, error) {
	l.b = append(l.b, p[:min(len(p), l.max-len(l.b))]...)
	return len(p), nil
}
