// Package limits says whether the process may have what it needs, of open files
// and of memory, before it is short of it in the middle of something, and which
// limit is too low where it is. It does not know what they are needed for.
package limits

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// tooLowError is an error that says which limit is too low, and how to raise it.
type tooLowError struct {
	text  string
	cause error
}

func (e *tooLowError) Error() string { return e.text }
func (e *tooLowError) Unwrap() error { return e.cause }

// Explain puts before an error which limit it comes from, where it comes from
// one and does not say so itself.
func Explain(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*tooLowError](err); ok {
		return err
	}
	for _, limit := range []struct {
		errno unix.Errno
		text  string
	}{
		{unix.ENFILE, filesOfAll},
		{unix.EMFILE, "too many open files for its limit" + raiseFiles},
		{unix.ENOMEM, "there is not enough memory: the machine has none left, or a memory limit of the cgroup, or of one above it, is too low" + raiseMemory},
	} {
		// Not every library wraps its errors.
		if errors.Is(err, limit.errno) || strings.Contains(err.Error(), limit.errno.Error()) {
			return &tooLowError{limit.text + ": " + err.Error(), err}
		}
	}
	return err
}
