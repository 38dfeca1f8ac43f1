package stale

// Proof is the stable code of a piece of evidence.
type Proof string

// What speaks about the ground an object lies on.
const (
	ContainerRoot    Proof = "container-root"    // on the root mount of a container
	NamedExclusive   Proof = "named-exclusive"   // the user said that it is ours alone
	MadeByThisRun    Proof = "made-by-this-run"  // on a mount that this run made
	Alone            Proof = "alone"             // nobody is alive but us and our ancestors
	NotAlone         Proof = "not-alone"         // somebody else is alive
	Hidden           Proof = "hidden"            // there may be processes that cannot be seen
	NotContainerRoot Proof = "no-container-root" // a sign that "/" is not a container's
	OtherMount       Proof = "other-mount"       // on a mount other than "/"
	HostNamespace    Proof = "initial-namespace" // we are in the initial PID namespace
	NetworkFS        Proof = "network-fs"        // another kernel may use it
	UnknownMount     Proof = "unknown-mount"     // the mount table does not show its mount
)

// What decides.
const (
	// stale
	ConnectRefused Proof = "connect-refused" // nothing is bound to the socket
	ProcessGone    Proof = "process-gone"    // no process has the number
	StartTime      Proof = "start-time"      // another process has the number
	OtherRun       Proof = "other-run"       // written in another run of this container
	LeftBehind     Proof = "left-behind"     // older than this run, on exclusive ground
	// live
	SocketBound  Proof = "socket-bound"
	ProcessAlive Proof = "process-alive"
	LockHeld     Proof = "lock-held"
	InodeHeld    Proof = "inode-held" // a process has it open
	// live, and more: the process is the one that the file was written for
	OlderThanFile Proof = "older-than-file"
	// cannot tell
	JustMade         Proof = "just-made"         // so new that it may be in the making
	OfThisRun        Proof = "of-this-run"       // not proven to be older than this run
	NoPermission     Proof = "no-permission"     // the kernel does not let us look
	ForeignNamespace Proof = "foreign-namespace" // the PID may be of another PID namespace
	ClockUnproven    Proof = "clock-unproven"    // the clock may have been set
	NoPID            Proof = "no-pid"            // the file holds no PID
	UsedByName       Proof = "used-by-name"      // nothing shows whether it is used
	NotEmpty         Proof = "not-empty"         // what is in it decides
	Layer            Proof = "layer"             // seen below the overlay that it is used through
	WrongType        Proof = "wrong-type"        // not what it is said to be
)
