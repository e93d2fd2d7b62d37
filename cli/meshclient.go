package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"k8s.io/client-go/rest"

	"virtmesh/agent/meshapi"
)

// mesh calls the mesh's administration API. A nil request sends no body, a nil
// answer ignores the one that comes.
func (c *connection) mesh(ctx context.Context, method, path string, request, answer any) error {
	client, err := rest.HTTPClientFor(c.rest)
	if err != nil {
		return fmt.Errorf("connect to the mesh: %w", err)
	}
	var body io.Reader
	if request != nil {
		data, err := json.Marshal(request)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.rest.Host, "/")+path, body)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	response, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("reach the agent: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		var failure meshapi.Error
		if err := json.NewDecoder(response.Body).Decode(&failure); err != nil || failure.Message == "" {
			return fmt.Errorf("the agent answered %s", response.Status)
		}
		return fmt.Errorf("%s", failure.Message)
	}
	if answer == nil {
		return nil
	}
	if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	return nil
}
