// Rails stands in for bin/rails in the images of test/exectest: "rails server" with
// the PID file check of rackup, and a web server that answers. It is one static
// program, so an image from scratch holds it.
//
//	rails server [-b ADDRESS] [-p PORT] [-P FILE]
//
// As rackup's server does, it refuses to start where the PID file, tmp/pids/server.pid
// by default, names a process that kill(pid, 0) finds, its own PID and processes of
// other users included; it deletes a file that names none; and it writes its own PID
// to a file that must not exist (O_EXCL). It deletes the file on SIGINT and SIGTERM.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	flags := flag.NewFlagSet("rails", flag.ExitOnError)
	address := flags.String("b", "127.0.0.1", "address")
	port := flags.Int("p", 3000, "port")
	pidFile := flags.String("P", "tmp/pids/server.pid", "PID file")
	if len(os.Args) < 2 || os.Args[1] != "server" {
		fmt.Fprintln(os.Stderr, "usage: rails server [-b ADDRESS] [-p PORT] [-P FILE]")
		os.Exit(2)
	}
	flags.Parse(os.Args[2:])
	if err := serve(net.JoinHostPort(*address, strconv.Itoa(*port)), *pidFile); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(address, pidFile string) error {
	if err := os.MkdirAll(filepath.Dir(pidFile), 0o755); err != nil {
		return err
	}
	if err := claim(pidFile); err != nil {
		return err
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-end
		os.Remove(pidFile)
		os.Exit(0)
	}()
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "rails answers")
	}))
}

// claim makes the PID file.
func claim(pidFile string) error {
	if err := check(pidFile); err != nil {
		return err
	}
	f, err := os.OpenFile(pidFile, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(f, os.Getpid())
	return errors.Join(err, f.Close())
}

// check looks at a PID file that is there already. What begins with no digit is 0,
// which stands for a dead process.
func check(pidFile string) error {
	text, err := os.ReadFile(pidFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	digits := strings.TrimSpace(string(text))
	if end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		digits = digits[:end]
	}
	pid, _ := strconv.Atoi(digits)
	if pid == 0 || syscall.Kill(pid, 0) == syscall.ESRCH {
		return os.Remove(pidFile)
	}
	return runningError{pid, pidFile}
}

// runningError has the words of rackup.
type runningError struct {
	pid  int
	file string
}

func (e runningError) Error() string {
	return fmt.Sprintf("A server is already running (pid: %d, file: %s). Exiting", e.pid, e.file)
}
