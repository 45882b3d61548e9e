package workload

import "strings"

// maxUnit is UNIT_NAME_MAX of systemd, less one.
const maxUnit = 255

// unitOf reads the name of a unit off that of its cgroup. To keep out of the way of the kernel's own files systemd writes an
// underscore before some (cg_escape in src/basic/cgroup-util.c). A slice is none here.
func unitOf(component string) (unit string, ok bool) {
	unit = strings.TrimPrefix(component, "_")
	dot := strings.LastIndexByte(unit, '.')
	if dot < 1 || len(unit) > maxUnit {
		return "", false
	}
	switch unit[dot+1:] { // those that have processes
	case "service", "scope", "socket", "mount", "swap":
	default:
		return "", false
	}
	if !isUnitName(unit[:dot]) {
		return "", false
	}
	return unit, true
}

// isUnitName tells whether systemd takes it for the name of a unit, without its suffix (unit_name_is_valid in
// src/basic/unit-name.c): the bytes it allows, and no template without its instance.
func isUnitName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if !isAlphanumeric(c) && !strings.ContainsRune(":-_.\\@", rune(c)) {
			return false
		}
	}
	at := strings.IndexByte(name, '@')
	return at != 0 && at != len(name)-1
}

// skipSlices cuts the slices off a path. The innermost is returned without its suffix, "" if there is none.
//
// A slice's name has those of the slices that it lies in (systemd.slice(5)). What is called a slice and lies elsewhere was not made by
// systemd.
func skipSlices(path string) (slice, inside string) {
	for {
		inner, rest, ok := nextSlice(slice, path)
		if !ok {
			return slice, path
		}
		slice, path = inner, rest
	}
}

func nextSlice(outer, path string) (slice, inside string, ok bool) {
	name, inside := next(path)
	slice, ok = strings.CutSuffix(strings.TrimPrefix(name, "_"), ".slice")
	if !ok || len(name) > maxUnit {
		return "", "", false
	}
	last := slice
	if outer != "" {
		if last, ok = strings.CutPrefix(slice, outer+"-"); !ok {
			return "", "", false
		}
	}
	return slice, inside, last != "" && !strings.Contains(last, "-") && isUnitName(last)
}

// userOf tells whose slice it is.
func userOf(slice string) (uid string, ok bool) {
	uid, ok = strings.CutPrefix(slice, "user-")
	return uid, ok && isNumber(uid)
}

// isSession: logind calls sessions so, and makes their scopes in the slices of users alone (src/login/logind-session.c).
func isSession(unit string) bool {
	return strings.HasPrefix(unit, "session-") && strings.HasSuffix(unit, ".scope")
}

// isUserManager: user@UID.service, which is delegated to the user (user@.service(5)).
func isUserManager(unit string) bool {
	uid, ok := strings.CutPrefix(unit, "user@")
	if !ok {
		return false
	}
	uid, ok = strings.CutSuffix(uid, ".service")
	return ok && isNumber(uid)
}

// numbered gives units of which there is a new one each time a name that they share: a star stands for what was made up.
func numbered(unit string) string {
	dot := strings.LastIndexByte(unit, '.')
	name, suffix := unit[:dot], unit[dot:]
	prefix, instance, isInstance := strings.Cut(name, "@")
	switch {
	case (suffix == ".service" || suffix == ".scope") && isTransient(name):
		return "run-*" + suffix
	case suffix == ".scope": // always transient
		// An application or a tool, with the number of a process behind it (docs/DESKTOP_ENVIRONMENTS.md of systemd).
		if i := strings.LastIndexByte(name, '-'); i > 0 && isNumber(name[i+1:]) {
			name = name[:i+1] + "*"
		}
		return withoutMadeUp(name) + suffix
	case !isInstance:
	case isConnection(instance):
		return prefix + "@*" + suffix
	case strings.HasPrefix(prefix, "dbus-:"):
		// What the D-Bus broker starts: dbus-:1.BUS-NAME@NUMBER.service (src/launch/launcher.c of dbus-broker).
		if _, service, ok := strings.Cut(prefix, "-:"); ok && isNumber(instance) {
			if _, service, ok = strings.Cut(service, "-"); ok {
				return "dbus-:*-" + service + "@*" + suffix
			}
		}
	case strings.HasPrefix(prefix, "app-"):
		return prefix + "@" + withoutMadeUp(instance) + suffix
	}
	return unit
}

// isTransient: what systemd-run calls a unit that is given no name (make_unit_name in src/run/run.c, over the years): a number on the
// bus, or at random, or a process with its start.
func isTransient(name string) bool {
	name, ok := strings.CutPrefix(name, "run-")
	if !ok || name == "" {
		return false
	}
	if random, ok := strings.CutPrefix(name, "r"); ok {
		return len(random) == 32 && isHex(random)
	}
	if number, ok := strings.CutPrefix(name, "u"); ok {
		return isNumber(number)
	}
	if process, ok := strings.CutPrefix(name, "p"); ok {
		pid, start, two := strings.Cut(process, "-i")
		return isNumber(pid) && (!two || isNumber(start))
	}
	return isNumber(name)
}

// isConnection: the instance of a service that a socket starts for each connection (Accept=yes in systemd.socket(5);
// instance_from_socket in src/core/socket.c). It is numbered, and says who is at both ends.
func isConnection(instance string) bool {
	number, ends, ok := strings.Cut(instance, "-")
	if !ok || !isNumber(number) {
		return false
	}
	if ends == "unknown" {
		return true
	}
	ok = false
	for i := range len(ends) {
		switch c := ends[i]; {
		case c == '-':
			ok = i > 0 && i < len(ends)-1
		case !isHexDigit(c) && !strings.ContainsRune(".:_", rune(c)):
			return false
		}
	}
	return ok
}

// machineOf names a system that a unit holds: systemd-machined's scopes, and systemd-nspawn's services.
func machineOf(unit string) (name string, ok bool) {
	if instance, is := strings.CutPrefix(unit, "systemd-nspawn@"); is {
		name, ok = strings.CutSuffix(instance, ".service")
	} else if scope, is := strings.CutPrefix(unit, "machine-"); is {
		name, ok = strings.CutSuffix(scope, ".scope")
	}
	name = unescape(name)
	if !ok || name == "" {
		return "", false
	}
	for i := range len(name) {
		if c := name[i]; !isAlphanumeric(c) && c != '-' && c != '_' && c != '.' {
			return "", false
		}
	}
	return withoutNumber(name), true
}

// withoutNumber takes from a domain of libvirt's the number that it has until it is shut down: qemu-3-name
// (virDomainDriverGenerateMachineName in src/hypervisor/domain_driver.c).
func withoutNumber(machine string) string {
	driver, rest, _ := strings.Cut(machine, "-")
	switch driver {
	case "qemu", "lxc", "ch", "xen", "libxl":
		if number, name, ok := strings.Cut(rest, "-"); ok && isNumber(number) && name != "" {
			return name
		}
	}
	return machine
}

// unescape reads systemd's \xNN.
func unescape(name string) string {
	if !strings.Contains(name, `\x`) {
		return name
	}
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if i+3 < len(name) && name[i] == '\\' && name[i+1] == 'x' && isHex(name[i+2:i+4]) {
			b.WriteByte(hexValue(name[i+2])<<4 | hexValue(name[i+3]))
			i += 3
		} else {
			b.WriteByte(name[i])
		}
	}
	return b.String()
}
