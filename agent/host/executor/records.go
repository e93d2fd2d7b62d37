package executor

import (
	"encoding/json"
	"fmt"
	"time"

	"virtmesh/agent/host/hypervisor"
)

// Names of the records that the executor keeps in a domain's metadata. They outlive the
// agent, and are removed with the domain.
const (
	// recordShutdown is when the guest was first asked to shut down, RFC 3339.
	recordShutdown = "shutdown-requested"
	// recordEnd is how the guest ended, or why its power is being cut: JSON of end.
	recordEnd = "end"
)

// maxEndMessage bounds the message of a recorded end, in characters: records are short.
const maxEndMessage = 512

func formatShutdown(at time.Time) string { return at.UTC().Format(time.RFC3339Nano) }

func formatEnd(how end) (string, error) {
	how.Message = printable(how.Message)
	text, err := json.Marshal(how)
	if err != nil {
		return "", fmt.Errorf("encode how the guest ended: %w", err)
	}
	return string(text), nil
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
func readRecords(domain hypervisor.Domain) (asked time.Time, how *end) {
	if at, err := time.Parse(time.RFC3339Nano, domain.Records[recordShutdown]); err == nil {
		asked = at
	}
	var recorded end
	if err := json.Unmarshal([]byte(domain.Records[recordEnd]), &recorded); err == nil && recorded.Phase != "" {
		how = &recorded
	}
	return asked, how
}
