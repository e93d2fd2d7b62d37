package membership

import (
	"context"
	"fmt"
	"strings"
	"time"

	"virtmesh/agent/identity"
)

// retirePause is the time between two attempts to end the guests of an expelled host.
const retirePause = 10 * time.Second

// expelledRemedy says how a machine that was expelled becomes a host again.
const expelledRemedy = "to use it again, stop its agent, run 'virtmesh agent leave --local --yes' on it, and join it with a new token"

// Retire is the work of the agent of a host that was expelled, after Start or Run has returned
// ErrExpelled: it ends the host's guests, once, and then only tells who asks. endGuests returns
// nil when no guest is left, and may be called again. It takes part in no mesh, and returns
// when ctx ends.
func Retire(ctx context.Context, config Config, options Options, endGuests func(context.Context) error) error {
	m := newMember(config, options)
	for _, open := range []func(context.Context) error{m.makeDirectories, m.openIdentity} {
		if err := open(ctx); err != nil {
			return err
		}
	}
	// What cannot be read was too full to be written: the guests are ended again.
	told, _, err := identity.ReadExpulsion(config.StateDir)
	if err != nil {
		m.log.Warn("this host acts as if it had just been expelled", "err", err)
	}
	w := m.newWaitingRoom("was expelled from its mesh" + toldBy(told))
	defer w.close()
	w.say("its guests are being shut down, and their disks stay", fmt.Errorf("%w; %s", ErrExpelled, expelledRemedy))
	if err := w.open(ctx); err != nil {
		return err
	}
	for !told.GuestsEnded && ctx.Err() == nil {
		err := endGuests(ctx)
		if err == nil {
			told.GuestsEnded = true
			break
		}
		m.log.Error("guests of this expelled host still run", "err", err, "retryIn", retirePause)
		w.say("its guests must end, and some still run", fmt.Errorf("%w; %s", err, expelledRemedy))
		select {
		case <-ctx.Done():
		case <-time.After(retirePause):
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	if err := m.identity.KeepExpulsion(told); err != nil {
		m.log.Warn("the next start ends the guests again", "err", err)
	}
	m.log.Info("the guests of this expelled host have ended; their disks are as they were", "remedy", expelledRemedy)
	w.say("its guests have ended, and their disks are as they were", fmt.Errorf("%w; %s", ErrExpelled, expelledRemedy))
	<-ctx.Done()
	return nil
}

// toldBy says who has told a host of its expulsion, and when.
func toldBy(e identity.Expulsion) string {
	if len(e.By) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s said so at %s)", strings.Join(e.By, ", "), e.At.Format(time.RFC3339))
}
