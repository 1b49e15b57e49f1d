package access

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// caller is what sort of caller a method is for.
type caller int

const (
	forOperators caller = iota
	forEdges            // with a control certificate
	forAnyone
)

// scope is what a method touches, for principals bound to certain networks.
type scope int

const (
	// inNetworks: only the networks that the request names. `networks/-` passes
	// here: the handler shows the networks that the caller sees.
	inNetworks scope = iota
	// everywhere: matters of the controller as a whole.
	everywhere
	// ownAffairs: nothing but the caller's own, or filtered by the handler.
	ownAffairs
)

type rule struct {
	caller caller
	role   swanherdv1.Role
	scope  scope
	// guessable methods take a secret from the request; wrong ones count
	// against their source.
	guessable bool
	// limited methods are for callers too whose role labels limit. The guard looks at
	// what the request names; the handler shows, makes and changes what is in the
	// caller's Scope and no more. All other methods such callers are refused.
	limited bool
}

const (
	viewer   = swanherdv1.Role_ROLE_VIEWER
	operator = swanherdv1.Role_ROLE_OPERATOR
	admin    = swanherdv1.Role_ROLE_ADMIN
)

// rules lists what every method of every service needs. A method that is not
// in it is refused; a test holds it complete.
var rules = map[string]rule{
	"/swanherd.v1.TopologyService/Apply":           {role: operator, limited: true},
	"/swanherd.v1.TopologyService/ListRevisions":   {role: viewer},
	"/swanherd.v1.TopologyService/GetRevision":     {role: viewer},
	"/swanherd.v1.TopologyService/RestoreRevision": {role: operator},
	"/swanherd.v1.TopologyService/Explain":         {role: viewer, limited: true},
	"/swanherd.v1.TopologyService/Watch":           {role: viewer, limited: true},
	"/swanherd.v1.TopologyService/GetNetwork":      {role: viewer, limited: true},
	"/swanherd.v1.TopologyService/ListNetworks":    {role: viewer, scope: ownAffairs, limited: true},
	"/swanherd.v1.TopologyService/CreateNetwork":   {role: operator},
	"/swanherd.v1.TopologyService/UpdateNetwork":   {role: operator},
	"/swanherd.v1.TopologyService/DeleteNetwork":   {role: operator},
	"/swanherd.v1.TopologyService/GetSite":         {role: viewer, limited: true},
	"/swanherd.v1.TopologyService/ListSites":       {role: viewer, limited: true},
	"/swanherd.v1.TopologyService/CreateSite":      {role: operator, limited: true},
	"/swanherd.v1.TopologyService/UpdateSite":      {role: operator, limited: true},
	"/swanherd.v1.TopologyService/DeleteSite":      {role: operator, limited: true},
	"/swanherd.v1.TopologyService/GetEdge":         {role: viewer, limited: true},
	"/swanherd.v1.TopologyService/ListEdges":       {role: viewer, limited: true},
	"/swanherd.v1.TopologyService/UpdateEdge":      {role: operator, limited: true},
	"/swanherd.v1.TopologyService/DeleteEdge":      {role: operator, limited: true},
	"/swanherd.v1.TopologyService/ResumeEdges":     {role: operator, limited: true},
	"/swanherd.v1.TopologyService/GetMesh":         {role: viewer, limited: true},
	"/swanherd.v1.TopologyService/ListMeshes":      {role: viewer, limited: true},
	"/swanherd.v1.TopologyService/CreateMesh":      {role: operator},
	"/swanherd.v1.TopologyService/UpdateMesh":      {role: operator},
	"/swanherd.v1.TopologyService/DeleteMesh":      {role: operator},
	"/swanherd.v1.TopologyService/GetProfile":      {role: viewer},
	"/swanherd.v1.TopologyService/ListProfiles":    {role: viewer},
	"/swanherd.v1.TopologyService/CreateProfile":   {role: operator},
	"/swanherd.v1.TopologyService/UpdateProfile":   {role: operator},
	"/swanherd.v1.TopologyService/DeleteProfile":   {role: operator},
	"/swanherd.v1.TopologyService/GetGateway":      {role: viewer, limited: true},
	"/swanherd.v1.TopologyService/ListGateways":    {role: viewer, limited: true},
	"/swanherd.v1.TopologyService/CreateGateway":   {role: operator, limited: true},
	"/swanherd.v1.TopologyService/UpdateGateway":   {role: operator, limited: true},
	"/swanherd.v1.TopologyService/DeleteGateway":   {role: operator, limited: true},

	"/swanherd.v1.TopologyService/RenderGatewayConfig": {role: viewer, limited: true},
	"/swanherd.v1.TopologyService/GetPreSharedKey":     {role: viewer, limited: true},
	"/swanherd.v1.TopologyService/ListPreSharedKeys":   {role: viewer, limited: true},
	"/swanherd.v1.TopologyService/CreatePreSharedKey":  {role: operator, limited: true},
	"/swanherd.v1.TopologyService/UpdatePreSharedKey":  {role: operator, limited: true},
	"/swanherd.v1.TopologyService/DeletePreSharedKey":  {role: operator, limited: true},
	"/swanherd.v1.TopologyService/GetSegment":          {role: viewer, limited: true},
	"/swanherd.v1.TopologyService/ListSegments":        {role: viewer, limited: true},
	"/swanherd.v1.TopologyService/CreateSegment":       {role: operator},
	"/swanherd.v1.TopologyService/UpdateSegment":       {role: operator},
	"/swanherd.v1.TopologyService/DeleteSegment":       {role: operator},
	"/swanherd.v1.TopologyService/GetAssertion":        {role: viewer},
	"/swanherd.v1.TopologyService/ListAssertions":      {role: viewer},
	"/swanherd.v1.TopologyService/CreateAssertion":     {role: operator},
	"/swanherd.v1.TopologyService/UpdateAssertion":     {role: operator},
	"/swanherd.v1.TopologyService/DeleteAssertion":     {role: operator},
	"/swanherd.v1.TopologyService/TestAssertions":      {role: viewer},

	"/swanherd.v1.FleetService/GetTunnel":      {role: viewer, limited: true},
	"/swanherd.v1.FleetService/ListTunnels":    {role: viewer, limited: true},
	"/swanherd.v1.FleetService/WatchTunnels":   {role: viewer, limited: true},
	"/swanherd.v1.FleetService/WatchFleet":     {role: viewer, limited: true},
	"/swanherd.v1.FleetService/RekeyTunnel":    {role: operator, limited: true},
	"/swanherd.v1.FleetService/RestartTunnel":  {role: operator, limited: true},
	"/swanherd.v1.FleetService/ListEvents":     {role: viewer, limited: true},
	"/swanherd.v1.FleetService/GetEvent":       {role: viewer, limited: true},
	"/swanherd.v1.FleetService/VerifyAuditLog": {role: viewer},

	"/swanherd.v1.AccessService/CreateEnrollmentToken": {role: operator, limited: true},
	"/swanherd.v1.AccessService/GetEnrollmentToken":    {role: viewer, limited: true},
	"/swanherd.v1.AccessService/ListEnrollmentTokens":  {role: viewer, limited: true},
	"/swanherd.v1.AccessService/DeleteEnrollmentToken": {role: operator, limited: true},
	"/swanherd.v1.AccessService/CreateApiToken":        {role: admin, scope: everywhere},
	"/swanherd.v1.AccessService/GetApiToken":           {role: viewer, scope: ownAffairs, limited: true}, // of others: admin, by the handler
	"/swanherd.v1.AccessService/ListApiTokens":         {role: admin, scope: everywhere},
	"/swanherd.v1.AccessService/DeleteApiToken":        {role: viewer, scope: ownAffairs, limited: true}, // of others: admin, by the handler
	"/swanherd.v1.AccessService/CreateLoginLink":       {role: viewer, scope: ownAffairs, limited: true},
	"/swanherd.v1.AccessService/RedeemLoginLink":       {caller: forAnyone, guessable: true},
	"/swanherd.v1.AccessService/WhoAmI":                {role: viewer, scope: ownAffairs, limited: true},

	"/swanherd.v1.AccessService/RotateApiToken": {role: viewer, scope: ownAffairs, limited: true}, // of others: admin, by the handler

	"/swanherd.v1.RoleBindingService/CreateRoleBinding": {role: admin, scope: everywhere},
	"/swanherd.v1.RoleBindingService/GetRoleBinding":    {role: admin, scope: everywhere},
	"/swanherd.v1.RoleBindingService/ListRoleBindings":  {role: admin, scope: everywhere},
	"/swanherd.v1.RoleBindingService/DeleteRoleBinding": {role: admin, scope: everywhere},

	"/swanherd.v1.UserService/GetUser":     {role: admin, scope: everywhere},
	"/swanherd.v1.UserService/ListUsers":   {role: admin, scope: everywhere},
	"/swanherd.v1.UserService/DisableUser": {role: admin, scope: everywhere},
	"/swanherd.v1.UserService/EnableUser":  {role: admin, scope: everywhere},

	"/swanherd.v1.SignInService/GetIdentityProvider": {caller: forAnyone},

	"/swanherd.v1.CertificateService/GetCertificate":             {role: viewer, limited: true},
	"/swanherd.v1.CertificateService/ListCertificates":           {role: viewer, limited: true},
	"/swanherd.v1.CertificateService/RevokeEdge":                 {role: operator, limited: true},
	"/swanherd.v1.CertificateService/ListRevocations":            {role: viewer, limited: true},
	"/swanherd.v1.CertificateService/GetCertificateAuthority":    {role: viewer},
	"/swanherd.v1.CertificateService/RotateCertificateAuthority": {role: admin},
	"/swanherd.v1.CertificateService/ImportCertificateAuthority": {role: admin},
	"/swanherd.v1.CertificateService/ForceCertificateAuthority":  {role: admin},
	"/swanherd.v1.CertificateService/CancelCertificateAuthority": {role: admin},

	"/swanherd.v1.DeviceService/CreateDevice":             {role: operator, limited: true},
	"/swanherd.v1.DeviceService/GetDevice":                {role: viewer, limited: true},
	"/swanherd.v1.DeviceService/ListDevices":              {role: viewer, limited: true},
	"/swanherd.v1.DeviceService/UpdateDevice":             {role: operator, limited: true},
	"/swanherd.v1.DeviceService/DeleteDevice":             {role: operator, limited: true},
	"/swanherd.v1.DeviceService/GetEnrollmentRequest":     {role: viewer, limited: true},
	"/swanherd.v1.DeviceService/ListEnrollmentRequests":   {role: viewer, limited: true},
	"/swanherd.v1.DeviceService/ApproveEnrollmentRequest": {role: operator, limited: true},
	"/swanherd.v1.DeviceService/DenyEnrollmentRequest":    {role: operator, limited: true},

	"/swanherd.v1.JobService/CreateJob":    {role: operator, limited: true},
	"/swanherd.v1.JobService/GetJob":       {role: viewer, limited: true},
	"/swanherd.v1.JobService/ListJobs":     {role: viewer, limited: true},
	"/swanherd.v1.JobService/GetJobOutput": {role: operator, limited: true},
	"/swanherd.v1.JobService/CancelJob":    {role: operator, limited: true},
	"/swanherd.v1.JobService/DeleteJob":    {role: operator, limited: true},

	"/swanherd.v1.RolloutService/CreateChangeSet":  {role: operator, limited: true},
	"/swanherd.v1.RolloutService/GetChangeSet":     {role: viewer, limited: true},
	"/swanherd.v1.RolloutService/ListChangeSets":   {role: viewer, limited: true},
	"/swanherd.v1.RolloutService/DeleteChangeSet":  {role: operator, limited: true},
	"/swanherd.v1.RolloutService/PlanChangeSet":    {role: operator, limited: true},
	"/swanherd.v1.RolloutService/ApproveChangeSet": {role: operator, limited: true},
	"/swanherd.v1.RolloutService/CreateRollout":    {role: operator, limited: true},
	"/swanherd.v1.RolloutService/GetRollout":       {role: viewer, limited: true},
	"/swanherd.v1.RolloutService/ListRollouts":     {role: viewer, limited: true},
	"/swanherd.v1.RolloutService/PauseRollout":     {role: operator, limited: true},
	"/swanherd.v1.RolloutService/ResumeRollout":    {role: operator, limited: true},
	"/swanherd.v1.RolloutService/AbortRollout":     {role: operator, limited: true},
	"/swanherd.v1.HistoryService/QueryHistory":     {role: viewer, limited: true},

	"/swanherd.v1.AlertService/CreateAlertRule":   {role: operator},
	"/swanherd.v1.AlertService/GetAlertRule":      {role: viewer},
	"/swanherd.v1.AlertService/ListAlertRules":    {role: viewer},
	"/swanherd.v1.AlertService/UpdateAlertRule":   {role: operator},
	"/swanherd.v1.AlertService/DeleteAlertRule":   {role: operator},
	"/swanherd.v1.AlertService/GetAlert":          {role: viewer, limited: true},
	"/swanherd.v1.AlertService/ListAlerts":        {role: viewer, limited: true},
	"/swanherd.v1.AlertService/CreateWebhookSink": {role: operator},
	"/swanherd.v1.AlertService/GetWebhookSink":    {role: viewer},
	"/swanherd.v1.AlertService/ListWebhookSinks":  {role: viewer},
	"/swanherd.v1.AlertService/UpdateWebhookSink": {role: operator},
	"/swanherd.v1.AlertService/DeleteWebhookSink": {role: operator},
	"/swanherd.v1.AlertService/TestWebhookSink":   {role: operator},

	"/swanherd.v1.ClusterService/ListClusterMembers":  {role: admin, scope: everywhere},
	"/swanherd.v1.ClusterService/CreateClusterMember": {role: admin, scope: everywhere},
	"/swanherd.v1.ClusterService/DeleteClusterMember": {role: admin, scope: everywhere},

	"/swanherd.v1.KeyService/GetSealing":    {role: admin, scope: everywhere},
	"/swanherd.v1.KeyService/RotateSealing": {role: admin, scope: everywhere},

	"/swanherd.v1.EnrollmentService/PollEnrollment":   {caller: forAnyone, guessable: true},
	"/swanherd.v1.EnrollmentService/Enroll":           {caller: forAnyone, guessable: true},
	"/swanherd.v1.EnrollmentService/RenewCertificate": {caller: forEdges},
	"/swanherd.v1.EdgeControlService/Session":         {caller: forEdges},

	// Health and the API's own description hold nothing secret.
	"/grpc.health.v1.Health/Check":                                   {caller: forAnyone},
	"/grpc.health.v1.Health/List":                                    {caller: forAnyone},
	"/grpc.health.v1.Health/Watch":                                   {caller: forAnyone},
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      {caller: forAnyone},
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": {caller: forAnyone},
}

// networksOf returns the networks that a request concerns, `networks/{network}`
// each: those of its parent, its name, or the name of the resource in it.
func networksOf(req proto.Message) []string {
	switch req := req.(type) {
	case *swanherdv1.ApplyRequest:
		return networksOfManifest(req.GetManifest())
	case *swanherdv1.CreateNetworkRequest:
		return []string{"networks/" + req.GetNetworkId()}
	}
	m := req.ProtoReflect()
	fields := m.Descriptor().Fields()
	for _, name := range []protoreflect.Name{"parent", "name"} {
		if f := fields.ByName(name); f != nil && f.Kind() == protoreflect.StringKind {
			return []string{networkOf(m.Get(f).String())}
		}
	}
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Kind() != protoreflect.MessageKind || f.IsList() || f.IsMap() {
			continue
		}
		if id := f.Message().Fields().ByName("name"); id != nil {
			return []string{networkOf(m.Get(f).Message().Get(id).String())}
		}
	}
	return nil
}

func networksOfManifest(m *swanherdv1.Manifest) []string {
	seen := map[string]struct{}{}
	var out []string
	add := func(name string) {
		n := networkOf(name)
		if _, ok := seen[n]; !ok {
			seen[n] = struct{}{}
			out = append(out, n)
		}
	}
	for _, r := range m.GetNetworks() {
		add(r.GetName())
	}
	for _, r := range m.GetProfiles() {
		add(r.GetName())
	}
	for _, r := range m.GetSegments() {
		add(r.GetName())
	}
	for _, r := range m.GetSites() {
		add(r.GetName())
	}
	for _, r := range m.GetMeshes() {
		add(r.GetName())
	}
	for _, r := range m.GetGateways() {
		add(r.GetName())
	}
	for _, r := range m.GetAssertions() {
		add(r.GetName())
	}
	return out
}

// nameIn is the name of what a request is about, its own or that of the resource in it;
// empty: it is about a parent, or about nothing that has a name.
func nameIn(req proto.Message) string {
	m := req.ProtoReflect()
	fields := m.Descriptor().Fields()
	if f := fields.ByName("name"); f != nil && f.Kind() == protoreflect.StringKind {
		return m.Get(f).String()
	}
	if fields.ByName("parent") != nil || fields.ByName(updateMask) == nil {
		return ""
	}
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Kind() != protoreflect.MessageKind || f.IsList() || f.IsMap() {
			continue
		}
		if id := f.Message().Fields().ByName("name"); id != nil {
			return m.Get(f).Message().Get(id).String()
		}
	}
	return ""
}

// networkOf returns the first two segments of a resource name.
func networkOf(name string) string {
	first, rest, _ := strings.Cut(name, "/")
	second, _, _ := strings.Cut(rest, "/")
	return first + "/" + second
}
