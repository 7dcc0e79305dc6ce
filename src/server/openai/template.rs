//! Chat templates: the Jinja text that makes a prompt of a chat.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::Value as Json;

const NAME: &str = "chat template";

/// A chat template and the tokens that it may name.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    eos_token: String,
    bos_token: String,
}

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template is no Jinja that is understood.
    #[error("the chat template: {0}")]
    Malformed(#[from] Error),
    /// The template refuses the chat.
    #[error("{0}")]
    Raised(String),
    /// tokenizer_config.json is malformed.
    #[error("tokenizer_config.json: {0}")]
    Config(#[from] serde_json::Error),
    /// A file could not be read.
    #[error("{0}: {1}")]
    Read(String, std::io::Error),
}

/// What a template says is wrong with a chat.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// A template for a tokenizer whose end-of-text is `<|endoftext|>`.
    ///
    /// # Errors
    /// [`TemplateError::Malformed`].
    pub fn new(source: impl Into<String>) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        // As transformers sets up Jinja.
        let mut syntax = SyntaxConfig::builder();
        environment.set_syntax(syntax.trim_blocks(true).lstrip_blocks(true).build()?);
        environment.add_function("raise_exception", |message: String| {
            let error = Error::new(ErrorKind::InvalidOperation, message.clone());
            Err::<Value, _>(error.with_source(Raised(message)))
        });
        // Templates are written for Jinja in Python, whose strings have methods.
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_template_owned(NAME, source.into())?;
        Ok(Self {
            environment,
            eos_token: "<|endoftext|>".to_owned(),
            bos_token: "<|endoftext|>".to_owned(),
        })
    }

    /// The template of a checkpoint's folder, if it has one: from
    /// chat_template.jinja, or `chat_template` in tokenizer_config.json.
    ///
    /// # Errors
    /// [`TemplateError`], naming the file at fault.
    pub fn from_dir(dir: &Path) -> Result<Option<Self>, TemplateError> {
        let config: Json = match read(&dir.join("tokenizer_config.json"))? {
            Some(text) => serde_json::from_str(&text)?,
            None => Json::Null,
        };
        let own_file = read(&dir.join("chat_template.jinja"))?;
        let Some(source) = own_file.or_else(|| default_of(&config["chat_template"])) else {
            return Ok(None);
        };
        let mut template = Self::new(source)?;
        for (token, key) in [
            (&mut template.eos_token, "eos_token"),
            (&mut template.bos_token, "bos_token"),
        ] {
            if let Some(text) = token_of(&config[key]) {
                *token = text;
            }
        }
        Ok(Some(template))
    }

    /// The prompt after which the assistant's answer comes. Each message is
    /// its role and its content.
    ///
    /// # Errors
    /// [`TemplateError::Raised`] for what the template finds wrong with the
    /// chat, [`TemplateError::Malformed`] for what is wrong with the template.
    pub fn render(&self, messages: &[(String, String)]) -> Result<String, TemplateError> {
        let message = |(role, content): &(String, String)| context! { role, content };
        let messages: Vec<Value> = messages.iter().map(message).collect();
        let context = context! {
            messages,
            eos_token => self.eos_token.as_str(),
            bos_token => self.bos_token.as_str(),
            add_generation_prompt => true,
        };
        let rendered = self.environment.get_template(NAME)?.render(context);
        rendered.map_err(|error| {
            let raised = std::error::Error::source(&error).and_then(|s| s.downcast_ref::<Raised>());
            match raised {
                Some(Raised(message)) => TemplateError::Raised(message.clone()),
                None => error.into(),
            }
        })
    }
}

/// The text of a file, if there is one.
fn read(file: &Path) -> Result<Option<String>, TemplateError> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TemplateError::Read(file.display().to_string(), error)),
    }
}

/// One template, or the one named "default" of several.
fn default_of(templates: &Json) -> Option<String> {
    let one = templates.as_str();
    let named = || {
        let all = templates.as_array()?;
        let default = all.iter().find(|named| named["name"] == "default")?;
        default["template"].as_str()
    };
    one.or_else(named).map(str::to_owned)
}

/// A token is its text, or an object that holds it.
fn token_of(token: &Json) -> Option<String> {
    let text = token.as_str().or_else(|| token["content"].as_str());
    text.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURNS: &str =
        "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}";

    fn chat() -> Vec<(String, String)> {
        let turn = |role: &str, content: &str| (role.to_owned(), content.to_owned());
        vec![turn("user", "Hi <b>!"), turn("assistant", "Hello")]
    }

    #[test]
    fn turns_are_joined_by_end_of_text() {
        let template = ChatTemplate::new(TURNS).unwrap();
        let expected = "Hi <b>!<|endoftext|>Hello<|endoftext|>";
        assert_eq!(template.render(&chat()).unwrap(), expected);
    }

    #[test]
    fn a_folder_brings_its_template_and_tokens() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ChatTemplate::from_dir(dir.path()).unwrap().is_none());
        let config = serde_json::json!({"chat_template": TURNS, "eos_token": {"content": "</s>"}});
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("tokenizer_config.json", &config.to_string());
        let template = ChatTemplate::from_dir(dir.path()).unwrap().unwrap();
        assert_eq!(template.render(&chat()).unwrap(), "Hi <b>!</s>Hello</s>");
        write("chat_template.jinja", "{{ raise_exception('no') }}");
        let template = ChatTemplate::from_dir(dir.path()).unwrap().unwrap();
        let refused = template.render(&chat()).unwrap_err();
        assert!(matches!(refused, TemplateError::Raised(message) if message == "no"));
        write("tokenizer_config.json", "{");
        assert!(ChatTemplate::from_dir(dir.path()).is_err());
    }

    #[test]
    fn strings_have_the_methods_that_they_have_in_python() {
        let source = "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}\
            {{ m.content.strip('! ').split(' ')[0].upper() }}{% endfor %}";
        let template = ChatTemplate::new(source).unwrap();
        assert_eq!(template.render(&chat()).unwrap(), "HI");
    }

    #[test]
    fn a_malformed_template_is_refused() {
        assert!(ChatTemplate::new("{% for %}").is_err());
        let late = ChatTemplate::new("{{ messages[0].content.shout() }}").unwrap();
        let error = late.render(&chat()).unwrap_err();
        assert!(matches!(error, TemplateError::Malformed(_)), "{error}");
    }
}
