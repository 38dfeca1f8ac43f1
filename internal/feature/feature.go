// Package feature is floor 1: what this kernel lets this process do, found out
// by trying, once, and remembered. Kernel versions are never compared:
// distributions backport, containers filter.
//
// # Absent
//
// Two answers mean that a system call is not there for us: ENOSYS from a kernel
// that does not have it, and EPERM from a seccomp profile that does not know it
// (container runtimes answer EPERM to calls newer than their list) or because
// the privilege is missing. A caller cannot tell those apart, and need not: in
// every case it takes the fallback, and where the privilege is what is missing
// the fallback fails with an error of its own that says so.
//
//	if feature.MountContext.Available() { ...fsopen... } else { ...mount(2)... }
//
// A call that a probe called available can still answer EPERM for another
// reason later, so a fast path that fails with an error for which [Absent]
// holds may take its fallback too.
//
// # When not to use it
//
// A call that costs nothing to try is tried, and its error judged with Absent.
// A Probe is for a choice that must be made before the first step, because half
// of one way cannot be finished the other way.
//
// # When it fails
//
//	ENOSYS, EPERM        absent
//	anything else        present: the real call will say what is wrong
package feature

import (
	"errors"
	"sync"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// Absent reports whether err says that a system call is not there for this
// process, rather than that it failed.
func Absent(err error) bool {
	return errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EPERM)
}

// Probe is one feature. It is safe for concurrent use.
type Probe struct {
	name string
	try  func() error
	once sync.Once
	err  error
}

// New makes a Probe that calls try at the first question and never again.
func New(name string, try func() error) *Probe { return &Probe{name: name, try: try} }

// Name is the feature in the words of its man page.
func (p *Probe) Name() string { return p.name }

// Available reports whether the feature is there.
func (p *Probe) Available() bool { return p.Err() == nil }

// Err is why the feature is absent, nil where it is there.
func (p *Probe) Err() error {
	p.once.Do(func() {
		if err := p.try(); Absent(err) {
			p.err = err
		}
	})
	return p.err
}

// MountContext is the whole of fsopen(2), fsmount(2), move_mount(2) and
// open_tree(2), the calls which build a mount before anybody can see it. A
// filter may know some and not the others, so each is tried, with arguments
// that change nothing.
var MountContext = New("fsopen, fsmount, open_tree and move_mount", tryMountContext)

func tryMountContext() error {
	// Bad descriptors are refused with EBADF after the check for privilege, so
	// nothing is made and EPERM and ENOSYS show.
	if _, err := linux.OpenTree(-1, "", linux.OpenTreeClone); Absent(err) {
		return err
	}
	if err := linux.MoveMount(-1, "", -1, "", linux.MoveMountFromFd|linux.MoveMountToFd); Absent(err) {
		return err
	}
	if _, err := linux.Fsmount(-1, 0); Absent(err) {
		return err
	}
	if err := linux.FsconfigSet(-1, "probe", "x"); Absent(err) {
		return err
	}
	fd, err := linux.Fsopen("tmpfs")
	if err != nil {
		return err
	}
	return linux.Close(fd)
}
