package executor

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
)

// Names of the records that the executor keeps in a domain's metadata. They outlive the
// agent, and are removed with the domain.
const (
	// recordShutdown is when the guest was first asked to shut down: RFC 3339, a space, and
	// the time since the host booted. Older versions wrote the first alone.
	recordShutdown = "shutdown-requested"
	// recordEnd is how the guest ended, or why its power is being cut: JSON of end.
	recordEnd = "end"
)

// maxEndMessage bounds the message of a recorded end, in characters: records are short.
const maxEndMessage = 512

func formatShutdown(at time.Time, boot time.Duration) string {
	return at.UTC().Format(time.RFC3339Nano) + " " + boot.String()
}

// readShutdown returns when the guest was asked, on the clock that shows now. Since the
// record was made that clock may have been set, which must neither take grace period from
// the guest nor give it more.
func readShutdown(record string, now time.Time, boot time.Duration) (asked time.Time) {
	text, since, hasBoot := strings.Cut(record, " ")
	at, err := time.Parse(time.RFC3339Nano, text)
	if !hasBoot && err == nil {
		return at
	}
	if then, err := time.ParseDuration(since); err == nil && then <= boot {
		return now.Add(then - boot)
	}
	return time.Time{}
}

func formatEnd(how end) (string, error) {
	how.Message = printable(how.Message)
	text, err := json.Marshal(how)
	if err != nil {
		return "", fmt.Errorf("encode how the guest ended: %w", err)
	}
	return string(text), nil
}

// HostEnd returns the record that a guest was ended because its host is being shut down, for who
// ends guests while no agent runs: the agent reports it after the next boot. The phase is Failed,
// since the guest did not choose to end, and the run strategy brings back what shall run. due is
// false if it is recorded already how the guest ended, or nobody will read it.
func HostEnd(guest hypervisor.Domain, powerCut bool) (name, value string, due bool) {
	if guest.Records[recordEnd] != "" || !guest.Persistent {
		return "", "", false
	}
	how := end{Phase: kubevirtv1.Failed, Message: "the guest was shut down with its host", PowerCut: powerCut, WithHost: true}
	if powerCut {
		how.Message = "its host was shut down, and the guest took too long, so its power was cut"
	}
	value, err := formatEnd(how)
	return recordEnd, value, err == nil
}

// printable cuts text to maxEndMessage characters, and replaces control characters and
// U+FFFD by spaces.
func printable(text string) string {
	out := make([]rune, 0, len(text))
	for _, r := range text {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			r = ' '
		}
		if out = append(out, r); len(out) == maxEndMessage {
			break
		}
	}
	return string(out)
}

// readRecords reads the records in the domain's metadata. A record that cannot be
// parsed counts as missing: the grace period then starts again, or the end of the
// guest is derived again from the domain's state.
func readRecords(domain hypervisor.Domain, now time.Time, boot time.Duration) (asked time.Time, how *end) {
	asked = readShutdown(domain.Records[recordShutdown], now, boot)
	var recorded end
	if err := json.Unmarshal([]byte(domain.Records[recordEnd]), &recorded); err == nil && recorded.Phase != "" {
		how = &recorded
	}
	return asked, how
}
