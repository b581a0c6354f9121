//! The configuration of providers, and who answers to which name.

use figment::providers::Format as _;

use super::*;

#[tokio::test]
async fn a_missing_provider_and_a_missing_name_say_what_to_do() {
    let none = models(&ModelsConfig::default()).unwrap();
    assert!(none.start(Call::default()).await.unwrap_err().message.contains("OPENAI_API_KEY"));
    let mut config = one(provider("http://127.0.0.1:9/v1".to_owned()));
    let two = config.providers["up"].clone();
    config.providers.insert("other".to_owned(), two);
    let several = models(&config).unwrap();
    assert!(several.start(call("gpt")).await.unwrap_err().message.contains("PROVIDER/gpt"));
    assert!(several.start(Call::default()).await.unwrap_err().message.contains("default_model"));
}

#[test]
fn the_environment_gives_providers() {
    let set = |name: &str| (name == "OPENAI_BASE_URL").then(|| "http://127.0.0.1:1/v1".to_owned());
    let config = ModelsConfig::default().with_environment(set);
    assert_eq!(config.providers.keys().collect::<Vec<_>>(), ["openai"]);
}

#[test]
fn a_key_of_the_environment_is_not_sent_to_another_place() {
    let mut config = one(provider("http://127.0.0.1:1/v1".to_owned()));
    config.providers.get_mut("up").unwrap().api_key = None;
    config
        .providers
        .insert("groq".to_owned(), ProviderConfig { kind: ProviderKind::Groq, ..ProviderConfig::default() });
    let config = config.with_environment(|name| Some(format!("value of {name}")));
    assert_eq!(config.providers["up"].api_key, None);
    assert_eq!(config.providers["groq"].api_key, Some(Secret::new("value of GROQ_API_KEY")));
}

#[test]
fn the_configuration_reads_from_toml() {
    let text = "kind = \"ollama\"\nbase_url = \"http://box:11434/v1\"\nmodels = [\"a\"]\nidle_timeout = \"5s\"\nmax_response_bytes = \"1MiB\"";
    let provider: ProviderConfig = figment::Figment::from(figment::providers::Toml::string(text)).extract().unwrap();
    assert_eq!((provider.kind, provider.idle_timeout), (ProviderKind::Ollama, Duration::from_secs(5)));
    let wrong =
        figment::Figment::from(figment::providers::Toml::string("base_uri = \"x\"")).extract::<ProviderConfig>();
    assert!(wrong.unwrap_err().to_string().contains("base_uri"));
}

#[test]
fn names_find_their_provider() {
    let with = |models: &[&str]| ProviderConfig {
        models: models.iter().map(|model| (*model).to_owned()).collect(),
        ..provider("http://127.0.0.1:9/v1".to_owned())
    };
    let config = |default: Option<&str>, providers: &[(&str, &[&str])]| ModelsConfig {
        default_model: default.map(str::to_owned),
        providers: providers.iter().map(|(name, models)| ((*name).to_owned(), with(models))).collect(),
    };
    let find = |config: &ModelsConfig, asked: Option<&str>| {
        models(config).unwrap().resolve(asked).map(|target| target.to_string()).map_err(|error| error.code)
    };
    let two = config(None, &[("openai", &[]), ("local", &[])]);
    assert_eq!(find(&two, Some("gpt-4o")), Ok("openai/gpt-4o".to_owned()));
    assert_eq!(find(&two, Some("local/org/llama")), Ok("local/org/llama".to_owned()));
    assert_eq!(find(&two, Some("org/llama")), Ok("openai/org/llama".to_owned()));
    assert_eq!(find(&two, Some("local/")), Err("model_not_found"));
    assert_eq!(find(&two, None), Err("model_not_found"));
    let default = config(Some("local/llama"), &[("openai", &[]), ("local", &[])]);
    assert_eq!(find(&default, None), Ok("local/llama".to_owned()));
    assert_eq!(find(&default, Some("")), Ok("local/llama".to_owned()));
    assert_eq!(find(&default, Some("gpt-4o")), Ok("local/gpt-4o".to_owned()));
    let listed = config(None, &[("up", &["one"])]);
    assert_eq!(find(&listed, None), Ok("up/one".to_owned()));
    assert_eq!(find(&listed, Some("two")), Err("model_not_found"));
    assert_eq!(find(&ModelsConfig::default(), None), Err("no_provider"));
    assert!(models(&config(Some("up/x"), &[("up", &["one"])])).unwrap_err().to_string().contains("default_model"));
}

#[test]
fn wrong_providers_are_named() {
    for (provider, expected) in [
        (ProviderConfig { base_url: Some("ftp://x".to_owned()), ..ProviderConfig::default() }, "providers.up.base_url"),
        (
            ProviderConfig { api_key_env: Some("NOT_SET_ANYWHERE".to_owned()), ..ProviderConfig::default() },
            "NOT_SET_ANYWHERE",
        ),
    ] {
        let error = models(&one(provider)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let key = provider("x".to_owned()).api_key.unwrap();
    assert_eq!(format!("{key:?}"), "[secret]");
}
