// Package openapi holds the description of the REST form of the API, as
// generated from the protos.
package openapi

import _ "embed"

// JSON is the description in OpenAPI 2.0.
//
//go:embed swanherd.swagger.json
var JSON []byte
