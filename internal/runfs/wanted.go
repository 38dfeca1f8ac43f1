package runfs

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
)

// Profile is a family of distributions, which differ in one thing here: who may
// write to /run/lock.
type Profile string

const (
	// Debian gives /run/lock mode 1777: Debian policy and FHS programs make lock
	// files there as ordinary users.
	Debian Profile = "debian"
	// Plain gives it 0755 root: a world-writable directory is one more place in
	// which a stranger can make names, and most distributions need none.
	Plain Profile = "plain"
)

// ParseProfile reads the name of a profile.
func ParseProfile(s string) (Profile, error) {
	if p := Profile(s); p == Debian || p == Plain {
		return p, nil
	}
	return "", fmt.Errorf("no profile %q; there are %q and %q", s, Debian, Plain)
}

func (p Profile) lockMode() uint32 {
	if p == Debian {
		return 0o1777
	}
	return 0o755
}

// Defaults, with their sources.
const (
	// DefaultPercent is how much of the memory /run may take: what systemd gives it.
	DefaultPercent = 20
	// DefaultInodes is "nr_inodes=800k" of systemd: 800 * 1024.
	DefaultInodes = 819200
	// DefaultLockSize is LOCK_SIZE of Debian's initscripts, 5 MiB: nobody who can
	// write to the lock directory can fill /run.
	DefaultLockSize = 5 << 20
	lockInodes      = 4096
	// Our own directory must have room when /run is full: records of some hundred
	// bytes, one for each service.
	ownSize   = 8 << 20
	ownInodes = 8192
	// pageSize is the smallest: every kernel rounds a tmpfs's size up to its own.
	pageSize = 4096
)

// Limit is a wanted limit.
type Limit struct {
	Value uint64 `json:"value"`
	// Exact limits were asked for and are set up or down. Others only ever lower
	// what is there: whoever made /run smaller had a reason.
	Exact bool `json:"exact"`
}

// Wanted is the /run mount as it should be. It is plain data.
type Wanted struct {
	Size     Limit   `json:"size"` // bytes
	Inodes   Limit   `json:"inodes"`
	LockSize uint64  `json:"lock_size"` // bytes
	NoExec   bool    `json:"noexec"`
	NoSwap   bool    `json:"noswap"`
	Profile  Profile `json:"profile"`
	// InPlace never mounts: the directory that is there is laid out as it is.
	InPlace bool `json:"in_place"`
	// Container is for the /run of one container, which its image and its runtime
	// decide: what is there keeps its owner, mode, flags and limits (but for limits
	// that are Exact), and a new tmpfs is one file system, without tmpfs of their
	// own in it, whose content [Applier.Fill] brings.
	Container bool `json:"container,omitempty"`
}

// Default is what is wanted where memory bytes may be used.
func Default(memory uint64, p Profile) Wanted {
	return Wanted{
		Size:     Limit{Value: Percent(memory, DefaultPercent)},
		Inodes:   Limit{Value: DefaultInodes},
		LockSize: DefaultLockSize,
		Profile:  p,
	}
}

// Percent is that share of memory, in whole pages and at least one.
func Percent(memory uint64, percent uint64) uint64 {
	n := memory / 100 * percent / pageSize * pageSize
	return max(n, pageSize)
}

// attr is the attributes of the mount.
func (w *Wanted) attr() uint64 {
	a := uint64(linux.MountAttrNoSUID | linux.MountAttrNoDev)
	if w.NoExec {
		a |= linux.MountAttrNoExec
	}
	return a
}

func (w *Wanted) tmpfs(label string) mounts.Tmpfs {
	return w.spec(w.Size.Value, w.Inodes.Value, 0o755, label)
}

func (w *Wanted) lockTmpfs(label string) mounts.Tmpfs {
	return w.spec(w.LockSize, lockInodes, w.Profile.lockMode(), label)
}

func (w *Wanted) ownTmpfs(label string) mounts.Tmpfs {
	return w.spec(ownSize, ownInodes, 0o755, label)
}

func (w *Wanted) spec(size, inodes uint64, mode uint32, label string) mounts.Tmpfs {
	t := mounts.Tmpfs{Source: "tmpfs", Attr: w.attr(), Options: []mounts.Option{
		{Key: "mode", Value: fmt.Sprintf("%04o", mode)},
		{Key: "size", Value: strconv.FormatUint(size, 10)},
		{Key: "nr_inodes", Value: strconv.FormatUint(inodes, 10)},
		// With huge=always in shmem_enabled's place a file of 100 bytes costs 2 MiB.
		{Key: "huge", Value: "never", Optional: true},
	}}
	if w.NoSwap {
		t.Options = append(t.Options, mounts.Option{Key: "noswap", Optional: true})
	}
	if label != "" {
		t.Options = append(t.Options, mounts.Option{Key: "rootcontext", Value: label, Optional: true})
	}
	return t
}

// optionText shows a specification as mount(8) would write it.
func optionText(t mounts.Tmpfs) string {
	var s []string
	for _, p := range [...]struct {
		attr uint64
		name string
	}{{linux.MountAttrNoSUID, "nosuid"}, {linux.MountAttrNoDev, "nodev"}, {linux.MountAttrNoExec, "noexec"}} {
		if t.Attr&p.attr != 0 {
			s = append(s, p.name)
		}
	}
	for _, o := range t.Options {
		if o.Value == "" {
			s = append(s, o.Key)
		} else {
			s = append(s, o.Key+"="+o.Value)
		}
	}
	return strings.Join(s, ",")
}
