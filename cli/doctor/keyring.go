package doctor

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"virtmesh/agent/hostseal"
	"virtmesh/agent/level"
	"virtmesh/agent/port/admin"
)

// agentPatience bounds how long the host's agent may take to say how the mesh is.
const agentPatience = 5 * time.Second

// readStatus asks the host's agent for the mesh as it sees it; nil if it does not answer.
func readStatus(ctx context.Context, socket string) *admin.Status {
	ctx, cancel := context.WithTimeout(ctx, agentPatience)
	defer cancel()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/mesh/v1/status", nil)
	if err != nil {
		return nil
	}
	response, err := client.Do(request)
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	var status admin.Status
	if response.StatusCode != http.StatusOK || json.NewDecoder(response.Body).Decode(&status) != nil {
		return nil
	}
	return &status
}

// checkKeyring says whether the mesh outlives its voters. It is silent on a host that is in no
// mesh, or whose agent does not answer.
func checkKeyring(f Facts) []Finding {
	const check = "recovery bundle"
	if f.Status == nil || f.Status.Keyring == nil {
		return nil
	}
	k := f.Status.Keyring
	fix := "as root on " + votersOf(f.Status) + ": virtmesh keyring bundle --output FILE"
	switch {
	case k.Bundle == nil && k.CAKeyInState:
		return warn(check, "none was made: every host and every backup holds the key of the mesh's CA", fix)
	case k.Bundle == nil:
		return warn(check, "none was made: the loss of the voters would be that of the mesh", fix)
	case !k.Bundle.Current:
		return warn(check, "that of "+k.Bundle.Made.Local().Format(time.DateOnly)+" does not hold the present keys: the loss of the voters would be that of the mesh", fix)
	}
	switch {
	case k.SecretKeyBundled:
		return warn("key for Secrets", "the newest one encrypts nothing until every voter has it", "'virtmesh secrets rotate-key --status' names the voters; start them, or remove those that are gone, with 'virtmesh node remove'")
	case k.SecretKeyWaits && !k.Bundle.StaysGood:
		return warn(check, "that of "+k.Bundle.Made.Local().Format(time.DateOnly)+" does not hold the newest key for Secrets, so the key encrypts nothing yet", fix)
	case k.BundlesStayGood && !k.Bundle.StaysGood:
		return warn(check, "that of "+k.Bundle.Made.Local().Format(time.DateOnly)+" is of an earlier version: each key that is replaced waits for another bundle, and a new bundle stays good", fix)
	}
	return pass(check, "made on "+k.Bundle.Host+", "+k.Bundle.Made.Local().Format(time.DateOnly))
}

// checkSeal says how this host's keys are kept on its disk. It is silent below the feature level
// from which on they are sealed.
func checkSeal(f Facts) []Finding {
	const check = "keyring on disk"
	if f.Status == nil || f.Status.Keyring == nil || f.Status.Level == nil || f.Status.Level.Mesh < level.Succession {
		return nil
	}
	seal := f.Status.Keyring.Seal
	var shut []Finding
	for _, sentence := range seal.Shut {
		shut = append(shut, warn(check, sentence, "see what the sentence says")...)
	}
	switch {
	case seal.FellBack:
		return append(shut, warn(check, "sealed with a file of root's, and no more with the TPM: "+seal.NoTPM, tpmRemedy)...)
	case len(shut) > 0:
		return shut
	case seal.With == hostseal.Unsealed && seal.NoTPM != "":
		return warn(check, "in clear: "+seal.NoTPM, "set keyring.seal in agent.yaml to 'file', or to 'auto', and restart the agent")
	case seal.With == hostseal.Unsealed:
		return nil // the agent is about to
	case seal.With == hostseal.KindTPM:
		return pass(check, "sealed with the TPM")
	case seal.NoTPM != "":
		return pass(check, "sealed with a file of root's: "+seal.NoTPM)
	}
	return pass(check, "sealed with a file of root's, as keyring.seal says")
}

// tpmRemedy is what to do on a host whose TPM has sealed its keyring and does so no more.
const tpmRemedy = "restart the machine, with its power off for a moment: the agent seals with the TPM again once it answers; if it is gone for good, set keyring.seal in agent.yaml to 'file'"

// votersOf names the hosts that hold the keyring, this host alone if it is one of them.
func votersOf(s *admin.Status) string {
	var voters []string
	for _, m := range s.Members {
		if m.Role == "voter" || m.Role == "leader" {
			voters = append(voters, m.Name)
		}
	}
	switch {
	case slices.Contains(voters, s.Host):
		return "this host"
	case len(voters) == 0:
		return "a voter"
	}
	return strings.Join(voters, " or ")
}
