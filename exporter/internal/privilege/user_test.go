package privilege

import "testing"

func TestUser(t *testing.T) {
	for text, want := range map[string]User{
		"0": {}, "0:0": {}, "1": {1, 1}, "65534:65534": Nobody(), "4294967294": {4294967294, 4294967294}, "1:2": {1, 2},
	} {
		var got User
		if err := got.Set(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
		var again User
		if err := again.Set(got.String()); err != nil || again != got {
			t.Errorf("%s is written %s", text, &got)
		}
	}
	for _, text := range []string{"", ":", "nobody", "-1", "4294967295", "4294967296", "1:", ":1", "1:x", "1:2:3", "0:1", "1:0", "+1", " 1"} {
		got := User{1, 2}
		if err := got.Set(text); err == nil || got != (User{1, 2}) {
			t.Errorf("%q was read as %v", text, &got)
		}
	}
}

func TestUserIn(t *testing.T) {
	for _, test := range []struct {
		args []string
		want User
	}{
		{nil, Nobody()},
		{[]string{"--privileges.user=1:2"}, User{1, 2}},
		{[]string{"--log.level=debug", "--privileges.user", "1", "x"}, User{1, 1}},
		{[]string{"--privileges.user=0"}, User{}},
		{[]string{"--privileges.user"}, Nobody()},
		{[]string{"--privileges.user="}, Nobody()},
		{[]string{"--privileges.user=root"}, Nobody()},
		{[]string{"--privileges.users=0"}, Nobody()},
		{[]string{"-privileges.user=0"}, Nobody()},
		{[]string{"@file"}, Nobody()},
	} {
		if got := UserIn(test.args); got != test.want {
			t.Errorf("%q: %v", test.args, &got)
		}
	}
}
