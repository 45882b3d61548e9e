package privilege

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// UserFlag is the flag that names whom root becomes, without its dashes.
const UserFlag = "privileges.user"

// Nobody is whom root becomes if it is not told otherwise: "nobody" and
// "nogroup", or what they are called elsewhere.
func Nobody() User { return User{UID: 65534, GID: 65534} }

// User is whom the process becomes where it was started as root. The zero User
// stays root.
type User struct{ UID, GID int }

// Set reads "UID" or "UID:GID", or 0 for who wants to stay root. Without a
// group it is that of the user's number. There are no names: to look one up is
// to read a file, or to ask a server, as root.
func (u *User) Set(s string) error {
	uid, gid, both := strings.Cut(s, ":")
	if !both {
		gid = uid
	}
	var read User
	for _, id := range []struct {
		text string
		to   *int
	}{{uid, &read.UID}, {gid, &read.GID}} {
		// The last number is "no id" to the kernel.
		n, err := strconv.ParseUint(id.text, 10, 32)
		if err != nil || n == math.MaxUint32 {
			return fmt.Errorf("%q is not a numeric UID or UID:GID, such as 65534 or 65534:65534", s)
		}
		*id.to = int(n)
	}
	if read != (User{}) && (read.UID == 0 || read.GID == 0) {
		return fmt.Errorf("%q is half of root: give an ordinary user and group, such as 65534:65534, or 0 to stay root", s)
	}
	*u = read
	return nil
}

func (u *User) String() string {
	if *u == (User{}) {
		return "0"
	}
	return fmt.Sprintf("%d:%d", u.UID, u.GID)
}

// UserIn is all that root looks at of its arguments: the value of UserFlag,
// where it stands there by itself. Whatever is not as it should be gives the
// default: who reads the arguments then, as that user, says what is wrong.
func UserIn(args []string) User {
	const flag = "--" + UserFlag
	for n, arg := range args {
		value, is := strings.CutPrefix(arg, flag+"=")
		if arg == flag && n+1 < len(args) {
			value, is = args[n+1], true
		}
		var found User
		if is && found.Set(value) == nil {
			return found
		}
	}
	return Nobody()
}
