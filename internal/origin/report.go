package origin

import (
	"time"
	"unicode/utf8"

	"github.com/slashrun/slashrun/internal/pkgdb"
	"github.com/slashrun/slashrun/internal/stale"
	"github.com/slashrun/slashrun/internal/view"
)

// Report is what was found out of one path. It is data: nothing is held.
type Report struct {
	// Path is the path as it was asked for, made absolute.
	Path string `json:"path"`
	// PathBytes is Path where that is no UTF-8 and JSON cannot carry it.
	PathBytes []byte `json:"path_bytes,omitempty"`
	// Real is the path without links in its directories, where it differs.
	Real      string `json:"real,omitempty"`
	RealBytes []byte `json:"real_bytes,omitempty"`

	Type  Type   `json:"type"`
	Kind  string `json:"kind,omitempty"` // what it is for: "pidfile", "lock"; empty where the type says all
	Mode  string `json:"mode,omitempty"` // the permissions, four octal digits or more
	UID   uint32 `json:"uid"`
	GID   uint32 `json:"gid"`
	User  string `json:"user,omitempty"`
	Group string `json:"group,omitempty"`
	Size  int64  `json:"size"`  // bytes; of a device and of a directory it means nothing
	Names uint32 `json:"names"` // hard links
	Dev   uint64 `json:"dev"`   // major<<32|minor, as stat gives it
	Inode uint64 `json:"inode"`
	// Born is when the inode was made, Changed when its content last was. Zero where
	// the file system does not tell.
	Born    time.Time `json:"born,omitzero"`
	Changed time.Time `json:"changed,omitzero"`

	Mount *Mount `json:"mount,omitempty"`
	// MadeBy is who declares or has made it, the likeliest first.
	MadeBy []Maker `json:"made_by,omitempty"`
	// UsedBy is who uses it now, MoreUsers how many uses were left out.
	UsedBy    []User `json:"used_by,omitempty"`
	MoreUsers int    `json:"more_users,omitempty"`
	// Reached is where other mount namespaces show it.
	Reached []view.Place `json:"reached,omitempty"`

	Verdict  stale.Verdict    `json:"verdict"`
	Evidence []stale.Evidence `json:"evidence,omitempty"`
	// PID is the number in a PID file, and Process the process that a live one names.
	PID     int   `json:"pid,omitempty"`
	Process *User `json:"process,omitempty"`

	Link *Link `json:"link,omitempty"`
	// Unseen says what could not be found out, and why.
	Unseen []string `json:"unseen,omitempty"`
	// Error says why the path could not be looked at: then there is no more.
	Error string `json:"error,omitempty"`

	err error
}

// Err is why the path could not be looked at, nil where it could.
func (r *Report) Err() error { return r.err }

// JSON is what is to be marshalled of the report: of what could not be looked at only
// that, without numbers that mean nothing.
func (r *Report) JSON() any {
	if r.err == nil {
		return r
	}
	return struct {
		Path      string        `json:"path"`
		PathBytes []byte        `json:"path_bytes,omitempty"`
		Type      Type          `json:"type"`
		Mount     *Mount        `json:"mount,omitempty"`
		Verdict   stale.Verdict `json:"verdict"`
		Unseen    []string      `json:"unseen,omitempty"`
		Error     string        `json:"error"`
	}{r.Path, r.PathBytes, r.Type, r.Mount, r.Verdict, r.Unseen, r.Error}
}

// Why is the evidence that decided: the last piece.
func (r *Report) Why() string {
	if len(r.Evidence) == 0 {
		return ""
	}
	return r.Evidence[len(r.Evidence)-1].Text
}

func (r *Report) setPath(p string) {
	r.Path, r.PathBytes = p, bytesOf(p)
}

// bytesOf are the bytes of a path that JSON cannot carry, nil of one that it can.
func bytesOf(p string) []byte {
	if utf8.ValidString(p) {
		return nil
	}
	return []byte(p)
}

func (l *Link) setReal(p string) { l.Real, l.RealBytes = p, bytesOf(p) }

// Type is the type of an inode.
type Type string

// The types.
const (
	File        Type = "file"
	Directory   Type = "directory"
	Socket      Type = "socket"
	FIFO        Type = "fifo"
	CharDevice  Type = "character device"
	BlockDevice Type = "block device"
	Symlink     Type = "link"
	Unknown     Type = "unknown" // it was not looked at
)

// Mount is the mount that a path lies on.
type Mount struct {
	ID         int    `json:"id"`
	Point      string `json:"point"`
	PointBytes []byte `json:"point_bytes,omitempty"`
	Type       string `json:"type"`
	Source     string `json:"source,omitempty"`
	Root       string `json:"root,omitempty"` // the directory of the file system that is mounted, where not all of it is
	Superblock string `json:"superblock"`     // "major:minor"
	ReadOnly   bool   `json:"read_only,omitempty"`
	// Here says that the path is the mount point itself.
	Here bool `json:"here,omitempty"`
}

// By is how a Maker is known.
type By string

// What speaks for a maker.
const (
	ByTmpfiles By = "tmpfiles" // a line of tmpfiles.d
	ByUnit     By = "unit"     // a directive of a unit file
	BySlashrun By = "slashrun" // what slashrun itself makes
	ByMount    By = "mount"    // the root of a mounted file system
	ByPackage  By = "package"  // a file that a package brought
	ByProcess  By = "process"  // nobody declares it; this process holds it
)

// Maker is somebody who made a path, or declares that it is to be there.
type Maker struct {
	By   By     `json:"by"`
	Text string `json:"text"` // the line, the directive, what it is
	// File and Line are where it stands.
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	Unit string `json:"unit,omitempty"`
	// Above is the directory that this is said of, where it is not the path itself.
	Above string `json:"above,omitempty"`
	// Package is what brought File, the path itself or the process's executable.
	Package *pkgdb.Owner `json:"package,omitempty"`
	PID     int          `json:"pid,omitempty"`
	Comm    string       `json:"comm,omitempty"`
	Exe     string       `json:"exe,omitempty"`
}

// Link is where a symbolic link leads.
type Link struct {
	Target      string `json:"target"` // as it is written
	TargetBytes []byte `json:"target_bytes,omitempty"`
	Real        string `json:"real,omitempty"`
	RealBytes   []byte `json:"real_bytes,omitempty"`
	// Broken is why it leads to nothing that was looked at.
	Broken string `json:"broken,omitempty"`
	// Report is of what it leads to.
	Report *Report `json:"report,omitempty"`
}

// User is a process that uses the path.
type User struct {
	PID  int    `json:"pid"`
	Comm string `json:"comm"`
	// How are the ways, the strongest first: "listening", "bound", "locked", "open",
	// "mapped", "cwd", "root", "exe", "connected".
	How []string `json:"how,omitempty"`
	// Detail says more of it: descriptors, the queue of a socket.
	Detail    string    `json:"detail,omitempty"`
	Since     time.Time `json:"since,omitzero"` // when the process started
	Unit      string    `json:"unit,omitempty"`
	Container string    `json:"container,omitempty"`
}
