package acl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
)

// Asker is a client of a server, or a connection.
type Asker interface {
	redis.Cmdable
	Do(ctx context.Context, args ...any) *redis.Cmd
}

// Read returns the users of a server by their names, in order, and who we are among them.
func Read(ctx context.Context, c Asker) (users []User, self string, err error) {
	names, err := c.Do(ctx, "ACL", "USERS").StringSlice()
	if err != nil {
		return nil, "", told("ACL USERS", err)
	}
	if self, err = c.Do(ctx, "ACL", "WHOAMI").Text(); err != nil {
		return nil, "", told("ACL WHOAMI", err)
	}
	p := c.Pipeline()
	answers := make([]*redis.Cmd, len(names))
	for i, name := range names {
		answers[i] = p.Do(ctx, "ACL", "GETUSER", name)
	}
	if len(names) > 0 {
		_, _ = p.Exec(ctx) // each has its own error
	}
	for i, name := range names {
		reply, err := answers[i].Result()
		if errors.Is(err, redis.Nil) {
			continue // removed since
		}
		if err != nil {
			return nil, "", told(fmt.Sprintf("ACL GETUSER %q", name), err)
		}
		u, err := parse(name, reply)
		if err != nil {
			return nil, "", err
		}
		users = append(users, u)
	}
	slices.SortFunc(users, func(a, b User) int { return strings.Compare(a.Name, b.Name) })
	return users, self, nil
}

// told gives an error of the server the command that it is about, and takes out what may
// be a password's hash.
func told(what string, err error) error {
	text := err.Error()
	if strings.HasPrefix(strings.ToLower(text), "err unknown command") {
		return fmt.Errorf("%s: %w: %s", what, ErrNoACL, redacted(text))
	}
	if clean := redacted(text); clean != text {
		return fmt.Errorf("%s: %s", what, clean)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// ErrNoACL means that a server has no ACL users: it is older than Redis 6.0, or the
// command has another name there.
var ErrNoACL = errors.New("the server does not know ACL: Redis 6.0 or newer is needed, with the command ACL under its own name")

// parse reads an answer to ACL GETUSER, of Redis 6.0 (patterns in arrays, without ~), 6.2
// (channels too), 7.0 (patterns in a text, as rules; selectors) and Valkey 9.1 (databases),
// in RESP2 or RESP3. A field that is not known is kept as odd.
func parse(name string, reply any) (User, error) {
	u := User{Name: name}
	f, ok := fields(reply)
	if !ok || f["commands"] == nil || f["flags"] == nil {
		return u, fmt.Errorf("ACL GETUSER %q: the server answers something else than a user", name)
	}
	for _, flag := range texts(f["flags"]) {
		switch flag {
		case "on":
			u.On = true
		case "nopass":
			u.NoPass = true
		case "skip-sanitize-payload":
			u.TrustsPayloads = true
		case "off", "sanitize-payload", "allkeys", "allchannels", "allcommands": // the first by not being on, the others are in their fields
		default:
			u.Odd = append(u.Odd, flag)
		}
	}
	for _, hash := range texts(f["passwords"]) {
		u.Passwords = append(u.Passwords, config.Secret(strings.TrimPrefix(hash, "#")))
	}
	u.Root, u.Odd = rulesOf(f, u.Odd)
	list, _ := f["selectors"].([]any)
	for _, one := range list {
		f, ok := fields(one)
		if !ok {
			u.Odd = append(u.Odd, "a selector")
			continue
		}
		var s Rules
		s, u.Odd = rulesOf(f, u.Odd)
		u.Selectors = append(u.Selectors, s)
	}
	return u, nil
}

// rulesOf reads what a user and a selector have both.
func rulesOf(f map[string]any, odd []string) (Rules, []string) {
	var r Rules
	take := func(words ...string) {
		for _, w := range words {
			if !r.add(w) {
				odd = append(odd, w)
			}
		}
	}
	for field, value := range f {
		switch field {
		case "flags", "passwords", "selectors":
		case "keys":
			take(marked(value, "~")...)
		case "channels":
			take(marked(value, "&")...)
		case "commands", "databases":
			take(marked(value, "")...)
		default:
			odd = append(odd, field)
		}
	}
	if f["channels"] == nil { // Redis 6.0: all may hear all
		r.Channels = []string{allChannels}
	}
	slices.Sort(odd)
	return r.tidy(), odd
}

// marked returns the words of a text as they are, and those of an array, in which each is
// a bare pattern, with their mark.
func marked(value any, mark string) []string {
	if text, is := value.(string); is {
		return strings.Fields(text)
	}
	list := texts(value)
	for i := range list {
		list[i] = mark + list[i]
	}
	return list
}

func texts(value any) (out []string) {
	switch list := value.(type) {
	case []any:
		for _, v := range list {
			out = append(out, fmt.Sprint(v))
		}
	case map[any]any: // a set, as some clients give it
		for v := range list {
			out = append(out, fmt.Sprint(v))
		}
		slices.Sort(out)
	case string:
		out = strings.Fields(list)
	}
	return out
}

// fields reads a map, which RESP2 has as a list of names and values.
func fields(reply any) (map[string]any, bool) {
	out := make(map[string]any)
	switch list := reply.(type) {
	case map[any]any:
		for k, v := range list {
			out[fmt.Sprint(k)] = v
		}
	case map[string]any:
		return list, true
	case []any:
		for i := 0; i+1 < len(list); i += 2 {
			out[fmt.Sprint(list[i])] = list[i+1]
		}
	default:
		return nil, false
	}
	return out, true
}
