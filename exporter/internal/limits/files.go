package limits

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	raiseFiles = "; raise it before the start, to 1024 for instance (systemd: LimitNOFILE=1024 in the unit; a shell: ulimit -n 1024; a container: --ulimit nofile=1024)"
	filesOfAll = "too many open files in the whole system; raise the sysctl fs.file-max, or look for who holds so many (/proc/sys/fs/file-nr counts them)"
)

// Files returns how many more files the process can open, up to most. Fewer than
// least are an error.
//
// It opens so many, and closes them again: what was inherited counts, too, and
// what the rest of the machine leaves. It is for the very start. Later, libraries
// take the want of one for the kernel's lack of something else, and Go's runtime
// ends the program where there is none for its own. By then package os has raised
// the soft limit to the hard one.
func Files(least, most int) (int, error) {
	return filesBy(func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC) }, least, most)
}

func filesBy(open func() (int, error), least, most int) (int, error) {
	var opened []int
	defer func() {
		for _, fd := range opened {
			_ = unix.Close(fd) // there was nothing to write
		}
	}()
	for len(opened) < most {
		fd, err := open()
		switch {
		case err == nil:
			opened = append(opened, fd)
		case err != unix.EMFILE && err != unix.ENFILE: //nolint:errorlint // a system call's own answer
			return most, nil // it cannot be told so, and may be enough
		case len(opened) >= least:
			return len(opened), nil
		case err == unix.ENFILE: //nolint:errorlint // as above
			return 0, &tooLowError{filesOfAll, err}
		default:
			return 0, tooFewFiles(len(opened), least, err)
		}
	}
	return most, nil
}

func tooFewFiles(room, least int, err error) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	need := limit.Cur + uint64(least-room)
	return &tooLowError{fmt.Sprintf("too many open files: the limit is %d, and it needs about %d%s", limit.Cur, need, raiseFiles), err}
}
