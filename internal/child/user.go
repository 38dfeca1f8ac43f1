package child

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/slashrun/slashrun/internal/accounts"
)

// User is whom a command runs as: everything that credentials(7) calls ids.
type User struct {
	Name     string // empty where only a number is known
	UID, GID uint32
	// Groups are the supplementary groups, GID among them: a group that is only
	// the primary one can be shed by a set-group-ID program of the user's own, and
	// with it what a mode such as 0707 denies to the group.
	Groups []uint32
	// Home is the home directory, "/" where none is known.
	Home string
}

// LookupUser finds the user that spec names: NAME or UID, and with :GROUP or :GID
// behind it that group alone, in place of all groups that the user database has
// the user in. A UID that no user has needs a group.
func LookupUser(src *accounts.Source, spec string) (*User, error) {
	name, group, withGroup := strings.Cut(spec, ":")
	if name == "" || withGroup && (group == "" || strings.Contains(group, ":")) {
		return nil, fmt.Errorf("%q is no user: write NAME, UID, NAME:GROUP or UID:GID", spec)
	}
	u := &User{Home: "/", GID: accounts.NoID}
	if id, err := accounts.ParseID(name); err == nil {
		u.UID = id
		switch known, err := src.UserByID(id); {
		case err == nil:
			u.Name, u.GID, u.Home = known.Name, known.GID, known.Home
		case !errors.Is(err, accounts.ErrUnknown):
			return nil, err
		}
	} else {
		u.Name = name
		uid, gid, home, _, err := src.User(name)
		if err != nil {
			return nil, err
		}
		u.UID, u.GID, u.Home = uid, gid, home
	}
	if u.Home == "" {
		u.Home = "/"
	}
	if withGroup {
		gid, err := src.Group(group)
		if err != nil {
			return nil, err
		}
		u.GID, u.Groups = gid, []uint32{gid}
		return u, nil
	}
	if u.GID == accounts.NoID {
		return nil, fmt.Errorf("user %s is not in the user database, so no group of it is known: name one, %s:GID", spec, spec)
	}
	groups, err := src.GroupsOf(u.Name)
	if err != nil {
		return nil, err
	}
	u.Groups = []uint32{u.GID}
	for _, g := range groups {
		if !slices.Contains(u.Groups, g) {
			u.Groups = append(u.Groups, g)
		}
	}
	return u, nil
}

func (u *User) String() string {
	if u.Name != "" {
		return fmt.Sprintf("user %s (%d:%d)", u.Name, u.UID, u.GID)
	}
	return fmt.Sprintf("user %d:%d", u.UID, u.GID)
}
