package child

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// drop gives the calling thread the credentials of the command. The order matters:
// each step needs what the next one takes away.
func (c *Command) drop() error {
	if c.DropBounding {
		if err := linux.DropBounding(0); err != nil {
			return fmt.Errorf("cannot empty the capability bounding set: %w; that takes CAP_SETPCAP", err)
		}
		// A program may also gain from these, root by its inheritable ones.
		if err := clearAmbient(); err != nil {
			return err
		}
		caps, err := linux.Capget()
		if err != nil {
			return err
		}
		caps.Inheritable = 0
		if err := linux.Capset(caps); err != nil {
			return err
		}
	}
	if c.User != nil {
		if err := c.User.become(); err != nil {
			return err
		}
	}
	if c.NoNewPrivs {
		if err := linux.SetNoNewPrivs(); err != nil {
			return err
		}
	}
	// A change of credentials clears it, prctl(2).
	if sig := c.Found.deathSig; sig != 0 {
		return linux.SetParentDeathSignal(sig)
	}
	return nil
}

func clearAmbient() error {
	err := linux.ClearAmbient()
	if errors.Is(err, syscall.EINVAL) { // before Linux 4.3 there are none
		return nil
	}
	return err
}

// all is three times the same id: real, effective and saved.
func all(id uint32) [3]uint32 { return [3]uint32{id, id, id} }

// become makes the calling thread run as u and makes sure of it.
func (u *User) become() error {
	uids, gids := linux.Getresuid(), linux.Getresgid()
	groups, err := linux.Getgroups()
	if err != nil {
		return err
	}
	already := uids == all(u.UID) && gids == all(u.GID)
	if !sameGroups(groups, u.Groups) {
		switch err := linux.Setgroups(u.Groups); {
		case err == nil:
			groups = u.Groups
		case already && errors.Is(err, syscall.EPERM):
			// Whoever started this process gave it these groups with this user,
			// and it has no right to have others. See KeptGroups.
		default:
			return u.refused("setgroups", err)
		}
	}
	if gids != all(u.GID) {
		if err := linux.Setresgid(u.GID, u.GID, u.GID); err != nil {
			return u.refused("setresgid", err)
		}
	}
	if uids != all(u.UID) {
		if err := linux.Setresuid(u.UID, u.UID, u.UID); err != nil {
			return u.refused("setresuid", err)
		}
	}
	if u.UID != 0 {
		// Usually the kernel did that with the user id. It did not where the process
		// was not root, or where the securebits say otherwise; and never for the
		// inheritable set.
		if err := clearAmbient(); err != nil {
			return err
		}
		if err := linux.Capset(linux.CapSets{}); err != nil {
			return err
		}
	}
	return u.verify(groups, !already)
}

// KeptGroups returns the supplementary groups that the command will have in place
// of u's. That is so only where this process is u already, by user and group, and
// may not change its groups: a container that was started as that user, with more
// groups on purpose (docker run --group-add, fsGroup of Kubernetes) or by mistake.
// Nil says that the command has the groups of u.
func (u *User) KeptGroups() ([]uint32, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	groups, err := linux.Getgroups()
	if err != nil || linux.Getresuid() != all(u.UID) || linux.Getresgid() != all(u.GID) || sameGroups(groups, u.Groups) {
		return nil, err
	}
	if err := linux.Setgroups(groups); errors.Is(err, syscall.EPERM) { // what it has: no change
		return groups, nil
	}
	return nil, nil
}

// verify asks the kernel for all that become set, and for root back.
func (u *User) verify(groups []uint32, changed bool) error {
	now, err := linux.Getgroups()
	if err != nil {
		return err
	}
	if uids, gids := linux.Getresuid(), linux.Getresgid(); uids != all(u.UID) || gids != all(u.GID) || !sameGroups(now, groups) {
		return fmt.Errorf("became %s, but the kernel says user ids %v, group ids %v and groups %v: not executing anything", u, uids, gids, now)
	}
	if u.UID == 0 {
		return nil
	}
	caps, err := linux.Capget()
	if err != nil {
		return err
	}
	if caps != (linux.CapSets{}) {
		return fmt.Errorf("became %s, but capabilities are left (%+v): not executing anything", u, caps)
	}
	const keep = ^uint32(0)
	if changed && linux.Setresuid(keep, 0, keep) == nil {
		return fmt.Errorf("became %s, but could become root again: not executing anything", u)
	}
	return nil
}

// refused explains why a thread may not take an id.
func (u *User) refused(call string, err error) error {
	why := ""
	switch {
	case errors.Is(err, syscall.EINVAL):
		why = "the user namespace of this container has no such id (/proc/self/uid_map and gid_map list what it has): " +
			"run the container with a range of ids (subuid(5)), or with the user that it has"
	case errors.Is(err, syscall.EPERM) && call == "setgroups" && setgroupsDenied():
		why = "the user namespace forbids setgroups (/proc/self/setgroups says deny), because an ordinary user made it without newgidmap(1): " +
			"supplementary groups cannot be dropped in it"
	case errors.Is(err, syscall.EPERM):
		why = fmt.Sprintf("that takes root with CAP_SETUID and CAP_SETGID, and this process is user %d", linux.Geteuid())
	case errors.Is(err, syscall.EAGAIN):
		why = "the user has as many processes as its limit allows (ulimit -u)"
	default:
		return fmt.Errorf("cannot become %s: %w", u, err)
	}
	return fmt.Errorf("cannot become %s: %w: %s", u, err, why)
}

func setgroupsDenied() bool {
	text, err := os.ReadFile("/proc/self/setgroups")
	return err == nil && bytes.HasPrefix(text, []byte("deny"))
}

// sameGroups compares two lists as sets.
func sameGroups(a, b []uint32) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}
