package nstest

// Root chooses what / is inside.
type Root string

const (
	// RootReadOnly is the machine's tree with every mount read-only.
	RootReadOnly Root = ""
	// RootOverlay is the machine's root file system with a tmpfs over it that
	// takes the writes (overlayfs). File systems mounted below / are empty
	// directories there, unless kept; /sys is, without what is mounted on it. It needs Options.Real: in a new user
	// namespace mounts below / are locked, and then the kernel takes / for no
	// lower layer (since the fix of CVE-2021-3732).
	RootOverlay Root = "overlay"
	// RootEmpty is a tmpfs with the directories /proc, /dev, /run, /tmp, /etc,
	// /usr and /var, and nothing of the machine but the test binary (with the
	// library directories if it is linked dynamically), the module's directory
	// and Options.Keep. The machine's tree is detached (pivot_root).
	RootEmpty Root = "empty"
)

// Options says what is special about the inside. The zero value is right for
// most tests; see the package documentation for what it gives.
type Options struct {
	// Root chooses what / is.
	Root Root

	// Keep names files and directories of the machine, by absolute path, that
	// stay visible at the same path, read-only, where /run, /tmp, /dev or an
	// empty root would hide them. A path that does not exist is an error.
	// Symbolic links are followed: Keep "/bin" gives a directory.
	Keep []string

	// Net adds a network namespace, with the loopback interface up.
	Net bool

	// SingleUser maps only the present user, to 0, also when that is root.
	SingleUser bool

	// Real stays in the present user namespace. It needs root.
	Real bool

	// PID1 makes the test binary itself PID 1, which then also has PID 1's
	// duties: signals without a handler do nothing, and orphans are its children.
	PID1 bool

	// Env is added to the environment, as "NAME=value".
	Env []string
}
