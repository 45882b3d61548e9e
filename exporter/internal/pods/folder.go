// Package pods names pods by the folder in which the kubelet keeps their logs,
// and says once what keeps it from that. It reads the names of folders, and
// nothing that is in them.
package pods

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"capability_exporter/collectors/workload"
)

// Folder is where the kubelet keeps the logs of pods.
type Folder struct {
	path   string
	logger *slog.Logger
	there  bool // when the program started

	mu   sync.Mutex
	said bool // that the names cannot be had
}

// Open looks whether the folder may be read, and says so if it may not. Where
// there is none, as on most machines, that is nothing to tell anybody, until
// there is a pod.
func Open(path string, logger *slog.Logger) *Folder {
	f := &Folder{path: path, logger: logger, there: true}
	_, err := workload.FindPods(os.DirFS(path), nil)
	if errors.Is(err, fs.ErrNotExist) {
		f.there = false
		logger.Debug("Pods would be told by their UID alone: there is no folder of their logs", "folder", path)
		return f
	}
	f.say(err)
	return f
}

// Names finds pods by their UID.
func (f *Folder) Names(uids map[string]bool) map[string]workload.PodName {
	found, err := workload.FindPods(os.DirFS(f.path), uids)
	f.say(err)
	return found
}

// say tells why the folder cannot be read, once until it can.
func (f *Folder) say(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.said = false
		return
	}
	if !f.said {
		f.said = true
		f.logger.Warn("Pods are told by their UID alone, or some of them: "+f.wayOut(err), "folder", f.path, "err", err)
	}
}

// wayOut says what to do.
func (f *Folder) wayOut(err error) string {
	switch {
	case !f.there:
		return "the folder of their logs was not there when the exporter started, which has given up all files since: mount it " +
			"(as deploy/kubernetes/daemonset.yaml does), or name another by --kubernetes.pods-dir, and start the exporter again"
	case errors.Is(err, fs.ErrPermission):
		return f.whoMay()
	default:
		return "the folder of their logs cannot be read"
	}
}

// whoMay says whose the folder is, and how to be let in.
func (f *Folder) whoMay() string {
	uid, gid := os.Geteuid(), os.Getegid()
	var stat unix.Stat_t
	if err := unix.Stat(f.path, &stat); err != nil {
		return fmt.Sprintf("uid %d, gid %d may not even see whose the folder of their logs is: mount it by itself where they may", uid, gid)
	}
	return fmt.Sprintf("the folder of their logs is of uid %d, gid %d (mode %04o), and is read as uid %d, gid %d: let them (setfacl -m u:%d:rx %s), "+
		"or give the exporter that group (started as root: --privileges.user=%d:%d; systemd: SupplementaryGroups=%d)",
		stat.Uid, stat.Gid, stat.Mode&0o7777, uid, gid, uid, f.path, uid, stat.Gid, stat.Gid)
}
