package workload

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// PodName is what people call a pod.
type PodName struct{ Namespace, Pod string }

const (
	maxFolders = 1 << 16 // of which a kubelet has some hundreds
	foldersRun = 512     // are read at one time
)

// FindPods looks for pods among the folders in which the kubelet keeps their logs: <namespace>_<pod>_<uid> (BuildPodLogsDirectory in
// pkg/kubelet/kuberuntime/helpers.go of Kubernetes). It goes by their names alone, reads them once, whatever the number of pods, and
// passes over what is called otherwise. Of two folders of one pod the name that comes first counts.
func FindPods(folder fs.FS, uids map[string]bool) (found map[string]PodName, err error) {
	dir, err := folder.Open(".")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	list, ok := dir.(fs.ReadDirFile)
	if !ok {
		return nil, errors.New("it is no folder")
	}
	found = map[string]PodName{}
	for n := 0; n < maxFolders; {
		entries, err := list.ReadDir(foldersRun)
		for _, entry := range entries {
			uid, name, ok := podOfFolder(entry.Name())
			if !ok || !uids[uid] {
				continue
			}
			if before, twice := found[uid]; !twice || name.before(before) {
				found[uid] = name
			}
		}
		n += len(entries)
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
	}
	return found, fmt.Errorf("it has more than %d entries, and only so many are read", maxFolders)
}

func (n PodName) before(other PodName) bool {
	return n.Namespace < other.Namespace || n.Namespace == other.Namespace && n.Pod < other.Pod
}

// podOfFolder reads a folder's name. Those of namespaces and pods are labels and names of DNS, which have no underscore in them.
func podOfFolder(folder string) (uid string, name PodName, ok bool) {
	parts := strings.Split(folder, "_")
	if len(parts) != 3 {
		return "", PodName{}, false
	}
	uid, name = podUID(parts[2]), PodName{parts[0], parts[1]}
	return uid, name, uid != "" && isDNSLabel(name.Namespace) && isDNSName(name.Pod)
}

const (
	maxDNSLabel = 63
	maxDNSName  = 253
)

// isDNSName: the name of a pod is a DNS subdomain, that of a namespace a label (RFC 1123, in lower case).
func isDNSName(name string) bool {
	if len(name) > maxDNSName {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		// Of a subdomain Kubernetes bounds the whole, and not the labels.
		if !isDNSWord(label) {
			return false
		}
	}
	return true
}

func isDNSLabel(name string) bool { return len(name) <= maxDNSLabel && isDNSWord(name) }

func isDNSWord(word string) bool {
	for i := range len(word) {
		if c := word[i]; !isDigit(c) && (c < 'a' || c > 'z') && (c != '-' || i == 0 || i == len(word)-1) {
			return false
		}
	}
	return word != ""
}
