package executor

import (
	"encoding/json"
	"fmt"
	"time"

	"virtmesh/agent/host/hypervisor"
)

// Names of the records that the executor keeps with a domain. They outlive the
// agent, and go with the domain.
const (
	// recordShutdown is when the guest was first asked to shut down, RFC 3339.
	recordShutdown = "shutdown-requested"
	// recordEnd is how the guest ended, or why its power is being cut: JSON of end.
	recordEnd = "end"
)

// maxEndMessage bounds the message of a recorded end: records are short.
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

// printable shortens text, and puts a space in place of what is not printed.
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

// readRecords reads what was recorded with the domain. What cannot be read counts
// as not recorded: the guest is then asked once more, or its end judged anew.
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
