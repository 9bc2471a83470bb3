package mirror

import "context"

// FollowNow has a mirror that nobody starts follow the process that is at From now, as Listen does.
func (m *Mirror) FollowNow(ctx context.Context) error {
	who, at, err := whoIs(ctx, m.cfg.From.DB(0))
	if err != nil {
		return err
	}
	if m.consider(ctx, who, at) {
		m.decide(true)
	}
	return nil
}

// CountNow counts what From has run of silent commands, as each heartbeat does.
func (m *Mirror) CountNow() { m.checkForeign() }
