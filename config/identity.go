package config

import (
	"errors"
	"fmt"
	"strings"
)

// Credential says as whom a client of the source goes on at the target.
type Credential struct {
	// User is the name on the source; empty is default.
	User         string `koanf:"user"`
	Password     Secret `koanf:"password"`
	PasswordFile string `koanf:"password_file"`
	// TargetUser and TargetPassword are for the target; both empty: it wants none.
	TargetUser         string `koanf:"target_user"`
	TargetPassword     Secret `koanf:"target_password"`
	TargetPasswordFile string `koanf:"target_password_file"`
}

// User is one of the proxy's own, and as whom each server knows its clients. Both
// empty for a side: that server wants no password.
type User struct {
	Name               string `koanf:"name"`
	Password           Secret `koanf:"password"`
	PasswordFile       string `koanf:"password_file"`
	SourceUser         string `koanf:"source_user"`
	SourcePassword     Secret `koanf:"source_password"`
	SourcePasswordFile string `koanf:"source_password_file"`
	TargetUser         string `koanf:"target_user"`
	TargetPassword     Secret `koanf:"target_password"`
	TargetPasswordFile string `koanf:"target_password_file"`
}

// Login is a name and its password; the zero value is nobody.
type Login struct {
	User     string
	Password Secret
}

// Identity is one client: what it says to the proxy, and what each server is told.
type Identity struct{ Client, Source, Target Login }

// Identities gives Credentials or Users one form, and reads their password files.
// All problems are reported; their texts begin with the key and hold no secret.
func (p Proxy) Identities() ([]Identity, []error) {
	problems := p.checkIdentities()
	if len(problems) > 0 {
		return nil, problems
	}
	read := func(key, user string, password Secret, file string) Login {
		if password == "" && file != "" {
			var err error
			if password, err = readSecret(file); err != nil {
				problems = append(problems, fmt.Errorf("%s_file: %w", key, err))
			}
		}
		return Login{User: user, Password: password}
	}
	var all []Identity
	for i, c := range p.Credentials {
		at := fmt.Sprintf("proxy.credentials[%d].", i)
		client := read(at+"password", c.User, c.Password, c.PasswordFile)
		all = append(all, Identity{Client: client, Source: client,
			Target: read(at+"target_password", c.TargetUser, c.TargetPassword, c.TargetPasswordFile)})
	}
	for i, u := range p.Users {
		at := fmt.Sprintf("proxy.users[%d].", i)
		all = append(all, Identity{Client: read(at+"password", u.Name, u.Password, u.PasswordFile),
			Source: read(at+"source_password", u.SourceUser, u.SourcePassword, u.SourcePasswordFile),
			Target: read(at+"target_password", u.TargetUser, u.TargetPassword, u.TargetPasswordFile)})
	}
	seen := map[Login]bool{}
	for _, one := range all {
		login := one.Client
		if login.User == "" {
			login.User = "default"
		}
		if seen[login] {
			problems = append(problems, fmt.Errorf("proxy: user %q is listed twice with the same password: keep one", login.User))
		}
		seen[login] = true
	}
	return all, problems
}

// checkIdentities is what can be said without reading files.
func (p Proxy) checkIdentities() []error {
	var problems []error
	if len(p.Credentials) > 0 && len(p.Users) > 0 {
		problems = append(problems, errors.New("proxy.users: proxy.credentials are given as well: keep one of the two"))
	}
	must := func(key string, password Secret, file string) {
		if password == "" && file == "" {
			problems = append(problems, fmt.Errorf("%s: missing: give it, or %s_file", key, key))
		}
	}
	name := func(key, user string) {
		if strings.ContainsAny(user, " \x00") {
			problems = append(problems, fmt.Errorf("%s: %q holds a space or a zero byte, which no user of Redis can: give its name", key, user))
		}
	}
	side := func(at, which, user string, password Secret, file string) {
		name(at+which+"_user", user)
		if user != "" {
			must(at+which+"_password", password, file)
		}
	}
	for i, c := range p.Credentials {
		at := fmt.Sprintf("proxy.credentials[%d].", i)
		name(at+"user", c.User)
		must(at+"password", c.Password, c.PasswordFile)
		side(at, "target", c.TargetUser, c.TargetPassword, c.TargetPasswordFile)
	}
	for i, u := range p.Users {
		at := fmt.Sprintf("proxy.users[%d].", i)
		name(at+"name", u.Name)
		must(at+"password", u.Password, u.PasswordFile)
		side(at, "source", u.SourceUser, u.SourcePassword, u.SourcePasswordFile)
		side(at, "target", u.TargetUser, u.TargetPassword, u.TargetPasswordFile)
	}
	return problems
}
