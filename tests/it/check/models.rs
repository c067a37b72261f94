//! Models, what they cost, and limits on that.

use super::check_tail;

#[test]
fn models_that_are_called_through_genai() {
    let served = |provider: &str, more: &str, found: &[&str]| {
        let tail = format!("[models.m]\nprovider = \"{provider}\"\nmodel = \"m\"\n{more}");
        let missing = (!cfg!(feature = "genai")).then_some("not_built_in 7:12");
        let mut expected: Vec<&str> = missing.into_iter().chain(found.iter().copied()).collect();
        expected.sort_by_key(|found| found.split_once(' ').map(|(_, place)| place));
        check_tail(&tail, &expected);
    };
    served("gemini", "api_key = \"env:K\"\n", &[]);
    served("gemini", "base_url = \"http://127.0.0.1:1\"\n", &[]);
    served("gemini", "", &["no_api_key 7:12"]);
    served("openai_responses", "", &["no_api_key 7:12"]);
    served("bedrock", "api_key = \"env:K\"\n", &["no_base_url 7:12"]);
    served("bedrock", "base_url = \"https://bedrock-runtime.eu-central-1.amazonaws.com\"\n", &[]);
    // It is on this machine, and so it costs nothing.
    served("ollama", "[network.limits]\ncost_usd = 1\n", &[]);
    served("ollama", "base_url = \"http://10.0.0.1:11434\"\n[network.limits]\ncost_usd = 1\n", &["no_price 6:9"]);
}

#[test]
fn money_that_nobody_has_is_no_limit() {
    check_tail("[network.limits]\ncost_usd = 1e300\n", &["out_of_range 7:12"]);
    check_tail("[[budgets]]\nof = \"process\"\ncost_usd = 2e9\n", &["out_of_range 8:12"]);
    check_tail(
        "[models.m]\nprice = { input_usd_per_mtok = 1, output_usd_per_mtok = 1 }\n[[budgets]]\nof = \"agent\"\ncost_usd = 0\n",
        &["limit_too_low 10:12"],
    );
}

#[test]
fn what_is_not_confirmed_counts_for_a_while_or_for_good() {
    let budget = |more: &str| format!("[[budgets]]\ntokens = 100000\n{more}");
    check_tail(&budget("of = \"tenant\"\nunknown_for = \"24h\"\n"), &[]);
    check_tail(&budget("of = \"tenant\"\nunknown_for = \"0s\"\n"), &["out_of_range 9:15"]);
    check_tail(&budget("of = \"agent\"\nunknown_for = \"24h\"\n"), &["key_without_use 9:15"]);
}

#[test]
fn models_and_money() {
    check_tail("[models.m]\n[models.n]\n", &["no_model 4:9", "unused_model 6:9", "unused_model 7:9"]);
    check_tail("[models.m]\nprovider = \"openai\"\n", &["no_model_name 7:12"]);
    check_tail("[models.m]\nprovider = \"anthropic\"\n", &["no_model_name 7:12", "no_api_key 7:12"]);
    let anthropic = |more: &str| format!("[models.m]\nprovider = \"anthropic\"\nmodel = \"m\"\n{more}");
    check_tail(&anthropic(""), &["no_api_key 7:12"]);
    check_tail(&anthropic("api_key = \"env:ANTHROPIC_API_KEY\"\n"), &[]);
    check_tail(&anthropic("base_url = \"http://127.0.0.1:4010\"\n"), &[]);
    check_tail(&anthropic("api_key = \"sk-very-secret\"\n"), &["inline_secret 9:11"]);
    check_tail(&anthropic("api_key = \"env:K\"\ntemperature = 1.5\n"), &["out_of_range 10:15"]);
    check_tail(&anthropic("api_key = \"env:K\"\n[network.limits]\ncost_usd = 1\n"), &["no_price 6:9"]);
    check_tail("[models.m]\napi_key = \"sk-very-secret\"\n", &["inline_secret 7:11"]);
    check_tail("[models.m]\nbase_url = \"ftp://x\"\n", &["bad_url 7:12"]);
    check_tail("[models.m]\nbase_url = \"http://user:pw@x/v1\"\n", &["inline_secret 7:12"]);
    let priced = |more: &str| {
        format!("[models.m]\nprovider = \"openai\"\nmodel = \"m\"\n{more}[network.limits]\ncost_usd = 1\n")
    };
    check_tail(&priced(""), &["no_price 6:9"]);
    check_tail(&priced("base_url = \"http://127.0.0.1:1/v1\"\n"), &[]);
    check_tail(&priced("base_url = \"http://[::1]:1/v1\"\n"), &[]);
    check_tail(&priced("base_url = \"http://127.0.0.1.example/v1\"\n"), &["no_price 6:9"]);
    check_tail(&priced("price = { input_usd_per_mtok = 1, output_usd_per_mtok = 1 }\n"), &[]);
    check_tail(&priced("price = { input_usd_per_mtok = 1 }\n"), &["missing_key 9:1"]);
    // A model that nobody uses needs no price.
    check_tail(
        "model = { prefer = \"s\" }\n[models.s]\n[models.m]\nprovider = \"openai\"\nmodel = \"m\"\n[network.limits]\ncost_usd = 1\n",
        &["unused_model 8:9"],
    );
    check_tail("[models.m]\n[network.limits]\ntokens = 63\n", &["limit_too_low 8:10"]);
    check_tail(
        "[models.m]\nprovider = \"openai\"\nmodel = \"m\"\nprice = { input_usd_per_mtok = 1, output_usd_per_mtok = 10 }\n[network.limits]\ncost_usd = 0.0001\n",
        &["limit_too_low 11:12"],
    );
}
