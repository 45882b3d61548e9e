package workload

import "strings"

// withoutMadeUp puts a star for whatever in a name was not made up by people: a UUID, at least 32 hexadecimal digits in a row, or one
// of BuildKit's identifiers.
func withoutMadeUp(name string) string {
	var b strings.Builder
	done := 0
	for i := 0; i < len(name); {
		word := wordLen(name[i:])
		from, to := madeUp(name[i:], word)
		if to > 0 {
			b.WriteString(name[done : i+from])
			b.WriteByte('*')
			done = i + to
		}
		i += max(word, to, 1)
	}
	if done == 0 {
		return name
	}
	b.WriteString(name[done:])
	return b.String()
}

const (
	leastHex   = 32 // an MD5 sum or a UUID without dashes
	buildKitID = 25 // identity.NewID in identity/randomid.go of BuildKit, in base 36
	uuidLen    = 36
	uuidFirst  = 8 // the digits before the first dash
)

// wordLen is how many letters and digits a name begins with.
func wordLen(name string) (n int) {
	for n < len(name) && isAlphanumeric(name[n]) {
		n++
	}
	return n
}

// madeUp finds what was made up in or from the word with which a name begins. to is 0 if nothing was.
func madeUp(name string, word int) (from, to int) {
	if from := word - uuidFirst; from >= 0 && (isUUID(name[from:], '-') || isUUID(name[from:], '_')) {
		return from, from + uuidLen
	}
	if word >= leastHex && isHex(name[:word]) || word == buildKitID && isBase36(name[:word]) {
		return 0, word
	}
	return 0, 0
}

// isUUID tells whether a name begins with a UUID, and has no more letters or digits behind it.
func isUUID(name string, separator byte) bool {
	if len(name) < uuidLen || len(name) > uuidLen && isAlphanumeric(name[uuidLen]) {
		return false
	}
	for i := range uuidLen {
		switch i {
		case 8, 13, 18, 23:
			if name[i] != separator {
				return false
			}
		default:
			if !isHexDigit(name[i]) {
				return false
			}
		}
	}
	return true
}

// isBase36 tells apart from a long word what has both digits and letters, none of them in upper case.
func isBase36(s string) bool {
	digits := 0
	for i := range len(s) {
		switch c := s[i]; {
		case isDigit(c):
			digits++
		case 'A' <= c && c <= 'Z':
			return false
		}
	}
	return digits > 0 && digits < len(s)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isHexDigit: those who make names up write them in lower case.
func isHexDigit(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'f' }

func isAlphanumeric(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

func isNumber(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return s != ""
}

func isHex(s string) bool {
	for i := range len(s) {
		if !isHexDigit(s[i]) {
			return false
		}
	}
	return s != ""
}

// hexValue is that of a hexadecimal digit.
func hexValue(c byte) byte {
	if isDigit(c) {
		return c - '0'
	}
	return c - 'a' + 10
}
