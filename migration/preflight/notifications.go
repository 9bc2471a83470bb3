package preflight

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// classes are the kinds of events without which changes are missed: generic,
// string, list, set, hash, zset, expired, evicted, stream. Modules' (d) is apart.
const classes = "g$lshzxet"

const notifySetting = "notify-keyspace-events"

// missingFlags returns what notify-keyspace-events lacks and what it should be:
// the flags that are there and the missing ones.
func missingFlags(have string) (missing, full string) {
	if !strings.ContainsAny(have, "KE") {
		missing = "KE"
	}
	if !strings.Contains(have, "A") {
		for _, c := range classes {
			if !strings.ContainsRune(have, c) {
				missing += string(c)
			}
		}
	}
	if missing == "" {
		return "", have
	}
	// A stands for all classes; what is not in it (m, n, and whatever is new) stays.
	kept := strings.Map(func(r rune) rune {
		if strings.ContainsRune(classes+"dAKE", r) {
			return -1
		}
		return r
	}, have)
	channels := "KE"
	if strings.ContainsAny(have, "KE") {
		channels = strings.Map(func(r rune) rune {
			if r == 'K' || r == 'E' {
				return r
			}
			return -1
		}, have)
	}
	return missing, channels + "A" + kept
}

// merged is what the migration itself sets: one kind of channel is enough for it,
// and makes half as many messages.
func merged(have string) string {
	missing, _ := missingFlags(have)
	if strings.ContainsAny(missing, classes) {
		have += "A"
	}
	if strings.Contains(missing, "K") {
		have += "E"
	}
	return have
}

// checkNotifications looks whether every change is reported: at the server that
// is left for the way there, at the other one for the way back.
func checkNotifications(ctx context.Context, in *inspection) []Finding {
	var out []Finding
	for _, s := range in.sides() {
		if s.clustered() {
			continue // it is not followed
		}
		for _, f := range changesOf(ctx, in, s) {
			if s == in.to && f.Level == Fail && in.Unsafe {
				f.Level = Warn
				f.What += "; there will be no way back"
			}
			out = append(out, f)
		}
		if f, ok := feedBuffer(ctx, s); ok {
			out = append(out, f)
		}
	}
	return out
}

// changesOf says which feed tells of a server's changes, and whether it does.
func changesOf(ctx context.Context, in *inspection, s *server) []Finding {
	if in.Feed == "tracking" {
		return one(tracking(ctx, s, "sync.feed asks for it"))
	}
	out := notifications(ctx, in, s)
	if in.Feed != "auto" {
		return out
	}
	for _, f := range out {
		if f.Level == Fail {
			if instead := tracking(ctx, s, f.What); instead.Level != Fail {
				instead.Do = f.Do
				return one(instead)
			}
		}
	}
	return out
}

// tracking looks whether CLIENT TRACKING can be used.
func tracking(ctx context.Context, s *server, why string) Finding {
	cn := s.pool.DB(0).Conn()
	defer func() { _ = cn.Close() }()
	err := cn.Do(ctx, "CLIENT", "TRACKING", "ON", "BCAST").Err()
	if err == nil {
		err = cn.Do(ctx, "CLIENT", "TRACKING", "OFF").Err()
	}
	if err != nil {
		return fail("Redis 6 and later have it; an ACL rule must allow CLIENT.", "%s: CLIENT TRACKING cannot be used (%v)", s, err)
	}
	return warn("Keyspace notifications are cheaper.",
		"%s: changes are followed by CLIENT TRACKING, which tells no database, so each changed key is looked at in all that are mapped; because: %s", s, why)
}

func notifications(ctx context.Context, in *inspection, s *server) []Finding {
	have, err := s.setting(ctx, notifySetting)
	if err != nil {
		return one(notificationsUnseen(ctx, in, s, err))
	}
	missing, full := missingFlags(have)
	command := s.redisCLI() + " CONFIG SET " + notifySetting + " " + full
	if missing != "" {
		return one(notificationsOff(ctx, in, s, have, missing, command))
	}
	out := one(notificationsProved(ctx, in, s, have))
	if !strings.ContainsAny(have, "Ad") {
		if types := moduleTypes(ctx, in, s); len(types) > 0 {
			out = append(out, warn("Add d:\n"+s.redisCLI()+" CONFIG SET "+notifySetting+" "+have+"d",
				"%s: changes of module types (%s) are not reported: %s is %q", s, strings.Join(types, ", "), notifySetting, have))
		}
	}
	return out
}

// notificationsOff is the finding when flags are missing and CONFIG GET says so.
func notificationsOff(ctx context.Context, in *inspection, s *server, have, missing, command string) Finding {
	if !in.SetNotifications {
		return fail("Switch them on (or allow it with sync.set_notifications):\n"+command,
			"%s: %s is %q and lacks %s: changes would be missed", s, notifySetting, have, missing)
	}
	if err := s.settable(ctx, notifySetting, have); err != nil {
		return fail("Switch them on, or let somebody do it who may:\n"+command,
			"%s: %s is %q and lacks %s, and we may not change it (%v)", s, notifySetting, have, missing, err)
	}
	return pass("%s: %s will be switched on (now %q, will be %q) and put back at complete", s, notifySetting, have, merged(have))
}

// notificationsProved wants a real event, since flags alone prove nothing about
// what is between the server and us.
func notificationsProved(ctx context.Context, in *inspection, s *server, have string) Finding {
	proof, err := prove(ctx, s.pool.DB(in.probeDB(s)), in.probeDB(s))
	if err != nil {
		if refused(err) {
			return warn("Allow SUBSCRIBE and the channels (see permissions).", "%s: %s is %q, but that could not be proved: %v", s, notifySetting, have, err)
		}
		return unknown(s, "proving the notifications by a real event", err)
	}
	if lacking := proof.lacking(); lacking != "" {
		return fail("Look for a proxy between, or an ACL channel rule (&*), that keeps events away.",
			"%s: %s is %q, but a change of a temporary key came back without an event of class %s", s, notifySetting, have, lacking)
	}
	return pass("%s: %s is %q; real events came back (%.1f ms)", s, notifySetting, have, proof.took.Seconds()*1000)
}

// notificationsUnseen is for servers that do not show the setting: only events count.
func notificationsUnseen(ctx context.Context, in *inspection, s *server, cause error) Finding {
	command := s.redisCLI() + " CONFIG SET " + notifySetting + " KEA"
	do := "Switch them on, or let somebody do it who may (with a managed service: in its parameter group):\n" + command
	proof, err := prove(ctx, s.pool.DB(in.probeDB(s)), in.probeDB(s))
	if err != nil {
		return fail(do, "%s: the notification setting is not shown (%v) and could not be tried: %v", s, cause, err)
	}
	switch lacking := proof.lacking(); {
	case lacking == "":
		return pass("%s: the notification setting is not shown, but real events of all classes came back (%.1f ms)", s, proof.took.Seconds()*1000)
	case proof.silent():
		return fail(do, "%s: no notifications arrive, and we may not read or change the setting (%v)", s, cause)
	default:
		return fail(do, "%s: no notifications of class %s arrive, and we may not read or change the setting (%v)", s, lacking, cause)
	}
}

// feedBuffer looks whether the server would cut off a subscriber too soon.
func feedBuffer(ctx context.Context, s *server) (Finding, bool) {
	const hardNeed, softNeed = 32 << 20, 8 << 20 // Redis' defaults
	text, err := s.setting(ctx, "client-output-buffer-limit")
	if err != nil {
		return Finding{}, false // said elsewhere, and the default is enough
	}
	words := strings.Fields(text)
	at := slices.Index(words, "pubsub")
	if at < 0 || at+3 >= len(words) {
		return Finding{}, false
	}
	hard, errHard := strconv.ParseInt(words[at+1], 10, 64)
	soft, errSoft := strconv.ParseInt(words[at+2], 10, 64)
	if errors.Join(errHard, errSoft) != nil || (hard == 0 || hard >= hardNeed) && (soft == 0 || soft >= softNeed) {
		return Finding{}, false
	}
	return warn("Raise it:\n"+s.redisCLI()+` CONFIG SET client-output-buffer-limit "pubsub 256mb 64mb 60"`,
		"%s: client-output-buffer-limit pubsub is %s hard, %s soft: under load the notification connection may be cut off, and each time everything is scanned again",
		s, limit(hard), limit(soft)), true
}

func limit(n int64) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprint(size(n))
}
