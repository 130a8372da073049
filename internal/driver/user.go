package driver

import (
	"fmt"
	"math"
	"os/user"
	"strconv"
	"syscall"
)

// A User is whom device processes run as. The zero value is the user toehold where there
// is one, else nobody.
type User struct {
	uid, gid uint32
}

// nobody is the kernel's overflow id, which owns nothing (kernel/sys.c).
const nobody = 65534

// Set takes a name, or a number that is the id of user and group.
func (u *User) Set(s string) error {
	uid, err := strconv.ParseUint(s, 10, 32)
	gid := uid
	if err != nil {
		account, err := user.Lookup(s)
		if err != nil {
			return fmt.Errorf("%w; give its number if there is no such account", err)
		}
		if uid, err = strconv.ParseUint(account.Uid, 10, 32); err != nil {
			return err
		}
		if gid, err = strconv.ParseUint(account.Gid, 10, 32); err != nil {
			return err
		}
	}
	if uid == 0 || gid == 0 || uid == math.MaxUint32 {
		return fmt.Errorf("user %q will not do: a device is to have no privileges", s)
	}
	u.uid, u.gid = uint32(uid), uint32(gid)
	return nil
}

// own fills in who is meant by the zero value.
func (u *User) own() {
	if u.uid == 0 && u.Set("toehold") != nil {
		u.uid, u.gid = nobody, nobody
	}
}

// String implements pflag.Value.
func (u *User) String() string {
	if u.uid == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(u.uid), 10)
}

// Type implements pflag.Value.
func (u *User) Type() string { return "user" }

// credential is that of a process without supplementary groups.
func (u *User) credential() *syscall.Credential {
	u.own()
	return &syscall.Credential{Uid: u.uid, Gid: u.gid}
}
